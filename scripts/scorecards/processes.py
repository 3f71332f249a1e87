"""Finds all processes that a command has started, by an environment variable that they inherit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from scorecards.waiting import eventually

MARK = "SCORECARD_MARK"


class Family:
    """A command and all its descendants, orphans too; its output goes into a file."""

    def __init__(
        self, command: Sequence[str], directory: Path, log: Path, environ: Mapping[str, str]
    ) -> None:
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        with log.open("wb") as output:
            self.leader = subprocess.Popen(
                command,
                cwd=directory,
                env={**self._environ(directory), **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _environ(self, home: Path) -> dict[str, str]:
        """Return a clean environment: GUNICORN_CMD_ARGS and its like would change what is measured.

        SPT_NOENV keeps setproctitle from overwriting the variables, and with them the mark, as
        /proc shows them. A model that is rewritten within a second must not come from a .pyc file.
        """
        name, _, value = self._mark.partition("=")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        fixed = {"SPT_NOENV": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return {"PATH": path, "HOME": str(home), name: value, **fixed}

    def members(self) -> list[psutil.Process]:
        """Return the processes that run."""
        return [process for process in psutil.process_iter() if self._is_running_member(process)]

    def kill(self) -> None:
        """Kill all of them, and wait until they have ended."""

        def all_gone() -> bool:
            members = self.members()
            for process in members:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            return not members

        eventually(all_gone, 10, "end of all processes")
        self.leader.wait()

    def _is_running_member(self, process: psutil.Process) -> bool:
        try:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes()
            is_marked = self._mark.encode() in environ.split(b"\0")
            return is_marked and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.Error):
            return False


def is_running(pid: int) -> bool:
    """Tell whether a process runs."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
