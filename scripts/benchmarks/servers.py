"""Starts servers under test, finds their processes, and stops them with all their descendants."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import processes
from benchmarks.processes import Held
from obworker.supervisor.listeners import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

START_SECONDS = 30.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.002
LOG_NAME = "server.log"


class BenchError(Exception):
    """A benchmark cannot go on; the message is for whoever runs it."""


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds; raise BenchError if it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Server:
    """How to start a server: a program of a virtual environment, and the files that it serves.

    In `argv`, `{port}` stands for the port to listen on; the working directory has `files`. The
    server is installed if the environment `venv`, beside the one that runs this, has `package`.
    """

    name: str
    package: str
    argv: tuple[str, ...]
    files: Mapping[str, str | bytes]
    path: str = "/"
    venv: str = "venv"

    def program(self) -> Path:
        """Return the program to start."""
        return Path(sys.prefix).with_name(self.venv) / "bin" / self.argv[0]

    def version(self) -> str | None:
        """Return the package's version; None where it is not installed."""
        packages = Path(sys.prefix).with_name(self.venv).glob("lib/python*/site-packages")
        found = distributions(name=self.package, path=[str(path) for path in packages])
        return next((distribution.version for distribution in found), None)


def obworker(predictor: str, *options: str) -> Server:
    """Return obworker, with no access log and these options, serving a predictor.py."""
    listen = ("--no-access-log", "--bind", "127.0.0.1:{port}")
    argv = ("obworker", *listen, *options, ".")
    return Server("obworker", "obworker", argv, {"predictor.py": predictor})


def installed(servers: Iterable[Server], only: Collection[str] | None) -> list[Server]:
    """Return the wanted servers that are installed; print which are not. None means all."""
    chosen = [server for server in servers if only is None or server.name in only]
    for server in chosen:
        if server.version() is None:
            print(f"{server.name}: left out, {server.package} is not installed", flush=True)
    found = [server for server in chosen if server.version() is not None]
    if only is not None and not found:
        raise BenchError("nothing is left to measure")
    return found


@dataclass(frozen=True)
class Running:
    """A server that answers on its port."""

    name: str
    port: int
    pid: int
    directory: Path

    def processes(self) -> frozenset[int]:
        """Return the ids of the server's whole process tree."""
        return frozenset(processes.tree(self.pid))

    def workers(self, count: int) -> frozenset[int]:
        """Return the ids of obworker's worker processes, once there are so many."""
        deadline = time.monotonic() + START_SECONDS
        while len(found := frozenset(filter(processes.is_worker, self.processes()))) != count:
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} has {len(found)} workers, not {count}")
            time.sleep(0.05)
        return found


@contextmanager
def running(
    server: Server, request: bytes, cores: Iterable[int] | None = None
) -> Iterator[Running]:
    """Start the server, on all cores or on these, and stop it after the block.

    The block begins when the server answers with 200.
    """
    with tempfile.TemporaryDirectory(prefix="obworker-bench-") as name:
        directory = Path(name)
        for file, content in server.files.items():
            (directory / file).write_bytes(
                content.encode() if isinstance(content, str) else content
            )
        port = free_port()
        process = _start(server, directory, cores or os.sched_getaffinity(0), port)
        try:
            _wait_ready(server, process, port, request, directory / LOG_NAME)
            yield Running(server.name, port, process.pid, directory)
        finally:
            _stop(process)


def take_core() -> int:
    """Restrict this process, which makes the load, to one core; return another for the server."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("two cores are needed: one for the server, one for the load")
    os.sched_setaffinity(0, {cores[0]})
    return cores[1]


def _start(
    server: Server, directory: Path, cores: Iterable[int], port: int
) -> subprocess.Popen[bytes]:
    program = server.program()
    if not program.exists():
        raise BenchError(f"{server.name} did not start: no program {program}")
    arguments = [argument.replace("{port}", str(port)) for argument in server.argv[1:]]
    # Nothing else is passed on, as variables such as GUNICORN_CMD_ARGS would change the results.
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    with (directory / LOG_NAME).open("wb") as log:
        return subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), str(program), *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_ready(
    server: Server, process: subprocess.Popen[bytes], port: int, request: bytes, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(port, request):
        status = process.poll()
        if status is None and time.monotonic() < deadline:
            time.sleep(0.05)
            continue
        print(log.read_text(errors="replace"), file=sys.stderr, end="")
        ended = f"no 200 in {START_SECONDS:.0f} s" if status is None else f"it ended with {status}"
        raise BenchError(f"{server.name} did not start: {ended}; its log is above")


def _answers(port: int, request: bytes) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as client:
        client.sendall(request)
        return client.recv(65536).startswith(b"HTTP/1.1 200 ")
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    family = Held(processes.tree(process.pid))
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    # Whoever the leader left behind is one that we hold, or was born since into its group.
    family.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
