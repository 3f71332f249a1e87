"""The server that is disturbed: how it is started, asked, looked at and killed."""

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
# More requests than clients that do not wait can leave in the queue while there is no worker.
MOST_WAITING = 2000
TITLE = re.compile(r"obworker: (\w+)")


class Standing(NamedTuple):
    """What a server reports about itself, and how many processes it has."""

    status: str
    ready: int
    workers: int
    processes: int
    waiting: int
    in_flight: int


class Served(Obworker):
    """obworker with its access log in a file; with a `certificate` it serves TLS."""

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
        """Start a server whose predictor.py has this code."""
        model = cls.model_directory(directory)
        model.mkdir()
        models.write(model, "predictor.py", code)
        return cls(directory, options, more, certificate)

    def put(self, code: str) -> None:
        """Replace the predictor.py, without telling the server."""
        models.write(self.model_directory(self.directory), "predictor.py", code)

    def report(self) -> dict[str, Any]:
        """Return the status report that its control socket gives (docs/control.md)."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(COMMAND_SECONDS)
            client.connect(str(self._control_socket))
            client.sendall(b'{"command": "status"}\n')
            with client.makefile("rb") as answer:
                report: dict[str, Any] = json.load(answer)["result"]
        return report

    def count_ready(self) -> int:
        """Return how many workers are ready by its own report."""
        return int(self.report()["workers"]["ready"])

    @cached_property
    def _asked_port(self) -> int:
        return self.admin_port

    def ask(self, path: str) -> Answer:
        """Send a GET to its admin process and return the response."""
        with closing(Link(self._asked_port)) as link:
            link.send(question("GET", path))
            return link.hear()

    def is_whole(self) -> bool:
        """Tell whether it has exactly the processes that it should have, and no request."""
        return self.now() == self._at_rest

    @property
    def _at_rest(self) -> Standing:
        workers = self.options.workers
        processes = workers + len(("master", "mold", "admin"))
        return Standing("ok", workers, workers, processes, waiting=0, in_flight=0)

    def now(self) -> Standing:
        """Return its present state."""
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
        """Return its processes of a role: worker, mold or admin."""
        return [child for child in self.master.children() if _role(child) == role]

    def kill(self, process: psutil.Process) -> Kill:
        """Kill a process; freeze it first, to see which connections it holds at that time.

        Raises:
            psutil.NoSuchProcess: it has ended by itself.
        """
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: _is_stopped(process), FREEZE_SECONDS, "a stopped process")
        # One read may miss a socket, as the kernel's table changes while it is being read.
        ports = frozenset(clients_ports(process.pid) | clients_ports(process.pid))
        at = time.monotonic()
        process.kill()
        return Kill(process.pid, at, ports)


def question(method: str, path: str) -> bytes:
    """Return the bytes of a request without a body, after which the connection ends."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def _role(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        if match := TITLE.match(" ".join(process.cmdline())):
            return match[1]
    return None


def _is_stopped(process: psutil.Process) -> bool:
    """Tell whether a process is stopped; raise NoSuchProcess for one that has become a zombie."""
    status = process.status()
    if status == psutil.STATUS_ZOMBIE:
        raise psutil.NoSuchProcess(process.pid)
    return bool(status == psutil.STATUS_STOPPED)
