"""Runs a real server of tests/predictors/talks, which answers whatever the request asks for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness import ROOT, Server, command

TALKS = str(ROOT / "tests" / "predictors" / "talks")


class Talking(Server):
    """A server with two ready workers on a free port, and its control socket in the directory."""

    def __init__(self, directory: Path, *options: str, scheme: str = "http") -> None:
        self._control = ("--control-socket", str(directory / "control"))
        self._scheme = scheme
        listen = ("--host", "127.0.0.1", "--port", "0", "--workers", "2")
        super().__init__(command(*listen, *self._control, *options, TALKS), directory / "log")
        self.wait_until_ready(2)

    @property
    def url(self) -> str:
        """The URL that it serves, without a slash at the end."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def reload(self) -> None:
        """Replace all workers, with the command that an operator uses."""
        program = command("reload", "--wait", *self._control)
        ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr

    def close(self) -> None:
        """Kill it, and print its log, which pytest shows if the test has failed."""
        self.destroy()
        print(f"--- log of {self.process.args!r}\n{self.log()}")
