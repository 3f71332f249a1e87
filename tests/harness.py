"""Starts real servers for tests, talks to them, inspects their processes, leaves none behind."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

ROOT = Path(__file__).parents[1]
# All processes of a server inherit this variable, by whose value `survivors` finds them.
MARK = "TEST_SERVER_MARK"
SERVING = re.compile(r"serving +https?://\S+?:(\d+)/")
ADMIN = re.compile(r"admin +http://127\.0\.0\.1:(\d+)/")

# Servers of different tests run at the same time and must not want the same address. Tests of the
# admin process or of the control socket set an address of their own.
QUIET = {"OBWORKER_ADMIN_BIND": "off", "OBWORKER_CONTROL_SOCKET": "off"}
# setproctitle would write a process's title over its environment, and the mark would be lost.
TRACEABLE = {"SPT_NOENV": "1"}

T = TypeVar("T")


def eventually(
    condition: Callable[[], T | None], within: float = 15.0, what: str = "condition"
) -> T:
    """Poll `condition` until it returns a true value, and return that; fail after `within` s."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {within} s"
        time.sleep(0.02)
    return value


class Reply(NamedTuple):
    """A complete response; the header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def request(
    port: int,
    method: str = "POST",
    path: str = "/",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = 30,
) -> Reply:
    """Send one request on a new connection, and return the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, fields, response.read())
    finally:
        connection.close()


class Server:
    """A command under test, its log, and all processes that it has started."""

    def __init__(
        self,
        command: list[str],
        log_path: Path,
        *,
        cwd: Path | None = None,
        environ: Mapping[str, str | None] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.log_path = log_path
        self._mark = uuid.uuid4().hex
        variables = {**os.environ, **QUIET, **TRACEABLE, **(environ or {}), MARK: self._mark}
        with log_path.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env={name: value for name, value in variables.items() if value is not None},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
            )

    @property
    def pid(self) -> int:
        """The pid of the process that was started, which is the master for as long as it runs."""
        return self.process.pid

    @property
    def port(self) -> int:
        """The port that it serves on; waits until the log names it."""
        return int(self.wait_for_log(SERVING)[1])

    @property
    def admin_port(self) -> int:
        """The port of its admin process; waits until the log names it."""
        return int(self.wait_for_log(ADMIN)[1])

    def log(self) -> str:
        """Return everything that it has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def wait_for_log(self, pattern: str | re.Pattern[str], within: float = 60) -> re.Match[str]:
        """Wait for a match in the log, and return it; fail at once if the server ends without."""

        def found() -> re.Match[str] | None:
            ended = self.process.poll()
            match = re.search(pattern, self.log())
            assert match or ended is None, f"ended with {ended} before {pattern!r}:\n{self.log()}"
            return match

        return eventually(found, within, f"{pattern!r} in the log")

    def wait_until_ready(self, workers: int = 1) -> Server:
        """Wait until so many workers have logged that they are ready."""
        eventually(
            lambda: self._count_ready() >= workers or self.process.poll() is not None,
            60,
            f"{workers} ready workers",
        )
        assert self.process.poll() is None, f"ended with {self.process.poll()}:\n{self.log()}"
        return self

    def _count_ready(self) -> int:
        return len(re.findall(r"worker \d+ .* ready in ", self.log()))

    def request(
        self,
        method: str = "POST",
        path: str = "/",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 30,
    ) -> Reply:
        """Send one request on a new connection, and return the response."""
        return request(self.port, method, path, body, headers, timeout=timeout)

    def workers(self) -> dict[int, psutil.Process]:
        """Return the worker processes by slot; their titles tell the slot."""
        found = {}
        for process in psutil.Process(self.pid).children():
            with suppress(psutil.NoSuchProcess, IndexError):
                title = " ".join(process.cmdline())
                if match := re.match(r"obworker: worker (\d+) ", title):
                    found[int(match[1])] = process
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def wait(self, within: float = 30) -> int:
        """Wait until it ends, and return the exit code."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within} s:\n{self.log()}") from None

    def survivors(self) -> list[str]:
        """Return the pid and command line of each of its processes that still runs."""
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):  # the process has ended in the meantime
                if self._is_ours(process):
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        environ = Path(f"/proc/{process.pid}/environ").read_bytes()
        return self._mark.encode() in environ and process.status() != psutil.STATUS_ZOMBIE

    def stop(self) -> int:
        """End it with TERM, and return the exit code; fail if a process of it is left."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.wait()
        eventually(lambda: not self.survivors(), 5, "end of all processes")
        return code

    def destroy(self) -> None:
        """Kill all processes that are left, in whatever state the test has left them."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for survivor in self.survivors():
            with suppress(ProcessLookupError):
                os.kill(int(survivor.split()[0]), signal.SIGKILL)


Serve = Callable[..., Server]


def command(*argv: str, script: Path | None = None) -> list[str]:
    """Return the command line of obworker, or of a predictor.py that is run as a script."""
    program = ["-m", "obworker"] if script is None else [str(script)]
    return [sys.executable, *program, *argv]


def run_to_end(
    *argv: str, environ: Mapping[str, str] | None = None, within: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run obworker until it ends by itself, and return what it wrote and its exit code."""
    return subprocess.run(
        command(*argv),
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
        env={**os.environ, **QUIET, **(environ or {})},
    )
