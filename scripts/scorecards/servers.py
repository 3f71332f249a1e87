"""A server under test: what scenarios do with it, whatever kind of server it is."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import psutil

from scorecards import models
from scorecards.clients import ask
from scorecards.load import Load
from scorecards.models import Model, Note
from scorecards.processes import Family, is_running
from scorecards.waiting import Late, eventually

START_SECONDS = 20.0


class NotApplicable(Exception):
    """A server lacks what a scenario uses; the message says what that is."""


class Ended(Exception):
    """A server has ended although it should run."""


class Verdict(NamedTuple):
    """What a server reports about a reload: an exit code, or None if it reports nothing."""

    code: int | None
    reason: str = ""


@dataclass(frozen=True)
class Options:
    """What a scenario asks of a server; each kind has its own options for it."""

    workers: int = 1
    timeout: float | None = None
    graceful_timeout: float | None = None
    max_requests: int | None = None
    admin: bool = False


class Server(ABC):
    """A server that runs in its own directory; `wrapper` is a command that runs it, if given."""

    name: ClassVar[str]
    listening: ClassVar[re.Pattern[str]]

    def __init__(
        self,
        directory: Path,
        options: Options,
        wrapper: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.options = options
        self._log_path = directory / "log"
        self._wrapped = bool(wrapper)
        command = [*wrapper, sys.executable, "-m", *self.command()]
        self.family = Family(
            command, self.model_directory(directory), self._log_path, environ or {}
        )

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return its name and version."""

    @classmethod
    @abstractmethod
    def deploy(cls, model: Model, directory: Path) -> None:
        """Put the model's files in place, without telling the server."""

    @classmethod
    def deploy_script(cls, _text: str, _directory: Path) -> None:
        """Put a start.sh in place."""
        raise NotApplicable("no start.sh")

    @abstractmethod
    def command(self) -> list[str]:
        """Return the module to run and its arguments."""

    @abstractmethod
    def reload(self) -> Verdict:
        """Reload the server, and wait until it serves the deployed files or has failed to."""

    @property
    def admin_port(self) -> int:
        """The port of its health checks."""
        raise NotApplicable("no admin port")

    @staticmethod
    def model_directory(directory: Path) -> Path:
        """Return where the model is."""
        return directory / "model"

    @property
    def port(self) -> int:
        """The port that it serves on; waits until the log names it."""
        return int(self.wait_for_log(self.listening)[1])

    @property
    def master(self) -> psutil.Process:
        """The process that supervises the others."""
        leader = psutil.Process(self.family.leader.pid)
        return leader.children()[0] if self._wrapped else leader

    @property
    def has_ended(self) -> bool:
        """Whether its first process has ended."""
        return self.family.leader.poll() is not None

    @property
    def is_gone(self) -> bool:
        """Whether none of its processes runs."""
        return not self.family.members()

    def log(self) -> str:
        """Return all it has written so far."""
        return self._log_path.read_text(errors="replace")

    def noted(self, what: str) -> list[Note]:
        """Return the model's notes of this kind, the oldest first."""
        directory = self.model_directory(self.directory)
        return [note for note in models.notes(directory) if note.what == what]

    def workers(self) -> set[int]:
        """Return the pids of the processes that have noted that they are ready and still run."""
        return {note.pid for note in self.noted("ready") if is_running(note.pid)}

    def wait_for_log(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """Wait for a match of the pattern in its log, and return the first one."""

        def found() -> re.Match[str] | None:
            has_ended = self.has_ended
            if (match := re.search(pattern, self.log())) is None and has_ended:
                raise Ended(f"it ended with {self.family.leader.poll()}")
            return match

        return eventually(found, START_SECONDS, f"{pattern!r} in the log")

    def wait_until_ready(self) -> None:
        """Wait until all workers are ready and a request is answered."""
        wanted = self.options.workers
        self.wait_for_more("ready", 0, wanted)
        eventually(lambda: ask(self.port).ok, START_SECONDS, "first answer")

    def wait_for_more(
        self, what: str, known: int, more: int = 1, within: float = START_SECONDS
    ) -> Note:
        """Wait for so many notes of this kind after the first `known`, and return the last."""

        def found() -> Note | None:
            has_ended = self.has_ended
            noted = self.noted(what)
            if len(noted) >= known + more:
                return noted[known + more - 1]
            if has_ended:
                raise Ended(f"it ended with {self.family.leader.poll()}")
            return None

        return eventually(found, within, f"{more} more {what}")

    def redeploy(self, model: Model) -> None:
        """Put another version of the model in place, without telling the server."""
        self.deploy(model, self.model_directory(self.directory))

    def load(self) -> Load:
        """Return a context manager that keeps the server busy."""
        return Load(self.port)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.master.send_signal(number)

    def wait(self, within: float) -> int:
        """Wait until it ends, and return the exit code."""
        try:
            return self.family.leader.wait(within)
        except subprocess.TimeoutExpired:
            raise Late(f"end of the server: not within {within:g} s") from None
