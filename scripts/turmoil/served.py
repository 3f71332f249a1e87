"""The server that is disturbed: where it listens, its processes, and its commands."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from scorecards import models
from scorecards.kinds import Obworker
from scorecards.servers import Options
from scorecards.waiting import eventually

from turmoil.answers import Answer
from turmoil.ledger import Kill
from turmoil.links import Link
from turmoil.sockets import clients_ports

COMMAND_SECONDS = 120.0
FREEZE_SECONDS = 10.0
# More than rude clients can leave behind while there is no worker.
MOST_WAITING = 2000
TITLE = re.compile(r"obworker: (\w+)")


class Standing(NamedTuple):
    """What a server says of itself, and what processes there are."""

    status: str
    ready: int
    workers: int
    processes: int
    waiting: int
    in_flight: int


class Served(Obworker):
    """obworker with an access log in a file; `certificate` has it speak TLS."""

    listening = re.compile(r"serving +https?://\S+?:(\d+)/")

    def __init__(
        self, directory: Path, options: Options, more: Sequence[str], certificate: Path | None
    ) -> None:
        self.access_log = directory / "access"
        self._more = [*more, *(("--certfile", str(certificate)) if certificate else ())]
        self.tls = ssl.create_default_context(cafile=certificate) if certificate else None
        super().__init__(directory, options)

    def command(self) -> list[str]:
        """Return the module to run and its arguments."""
        log = ("--access-log", "--access-log-file", str(self.directory / "access"))
        more = ("--access-log-format", "json", "--max-queue", str(MOST_WAITING), *self._more)
        return [*super().command(), *log, *more]

    @classmethod
    def start(
        cls,
        directory: Path,
        options: Options,
        code: str,
        more: Sequence[str] = (),
        certificate: Path | None = None,
    ) -> Served:
        """Start one that serves that predictor.py."""
        model = cls.model_directory(directory)
        model.mkdir()
        models.write(model, "predictor.py", code)
        return cls(directory, options, more, certificate)

    def put(self, code: str) -> None:
        """Put another predictor.py in place, without a word to the server."""
        models.write(self.model_directory(self.directory), "predictor.py", code)

    def report(self) -> dict[str, Any]:
        """Return what it tells of itself by its control socket (docs/control.md)."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(COMMAND_SECONDS)
            client.connect(str(self._control_socket))
            client.sendall(b'{"command": "status"}\n')
            with client.makefile("rb") as answer:
                report: dict[str, Any] = json.load(answer)["result"]
        return report

    def count_ready(self) -> int:
        """Return how many workers it says are ready."""
        return int(self.report()["workers"]["ready"])

    @cached_property
    def _asked_port(self) -> int:
        return self.admin_port

    def ask(self, path: str) -> Answer:
        """Ask its admin process."""
        with closing(Link(self._asked_port)) as link:
            link.send(question("GET", path))
            return link.hear()

    def is_whole(self) -> bool:
        """Return whether it is at rest: as many processes as there should be, and no request."""
        return self.now() == self._at_rest

    @property
    def _at_rest(self) -> Standing:
        workers = self.options.workers
        processes = workers + len(("master", "mold", "admin"))
        return Standing("ok", workers, workers, processes, waiting=0, in_flight=0)

    def now(self) -> Standing:
        """Return how it stands."""
        report = self.report()
        return Standing(
            report["status"],
            report["workers"]["ready"],
            len(self.processes("worker")),
            len(self.family.members()),
            report["queue"]["waiting"],
            sum(slot["in_flight"] for slot in report["slots"]),
        )

    def processes(self, role: str) -> list[psutil.Process]:
        """Return its workers, its mold or its admin process."""
        return [child for child in self.master.children() if _role(child) == role]

    def kill(self, process: psutil.Process) -> Kill:
        """Kill a process, and tell what it held.

        Raises:
            psutil.NoSuchProcess: it has gone by itself.
        """
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: _is_stopped(process), FREEZE_SECONDS, "a stopped process")
        # Twice, for the kernel's table of sockets changes between two reads of it.
        ports = frozenset(clients_ports(process.pid) | clients_ports(process.pid))
        at = time.monotonic()
        process.kill()
        return Kill(process.pid, at, ports)


def question(method: str, path: str) -> bytes:
    """Return a request without a body, the only one of its connection."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def _role(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        if match := TITLE.match(" ".join(process.cmdline())):
            return match[1]
    return None


def _is_stopped(process: psutil.Process) -> bool:
    """Tell whether it is; one that has ended counts as gone."""
    status = process.status()
    if status == psutil.STATUS_ZOMBIE:
        raise psutil.NoSuchProcess(process.pid)
    return bool(status == psutil.STATUS_STOPPED)
