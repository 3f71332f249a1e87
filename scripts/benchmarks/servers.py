"""Servers under test: started on one core, measured and stopped with all their processes."""

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
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_SECONDS = 30.0
STOP_SECONDS = 5.0
LOG_NAME = "server.log"


class BenchError(Exception):
    """A benchmark cannot go on; the message is for the person who runs it."""


@dataclass(frozen=True)
class Server:
    """How to start a server: a program of this environment, and the files it serves.

    In `argv`, `{port}` stands for the port to listen on; the working directory holds `files`.
    """

    name: str
    argv: tuple[str, ...]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Running:
    """A server that answers on its port."""

    name: str
    port: int
    pid: int

    def processes(self) -> frozenset[int]:
        """Return the ids of the server's whole process tree."""
        return frozenset(_tree(self.pid))


def cpu_seconds(processes: frozenset[int]) -> float:
    """Return the user and system time the processes have used so far, in all their threads."""
    # The kernel's CPU clock of a process (MAKE_PROCESS_CPUCLOCK with CPUCLOCK_SCHED) counts
    # nanoseconds; /proc/PID/stat counts hundredths of a second, several percent of a short round.
    try:
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in processes)
    except OSError as error:
        raise BenchError("a process of the server ended, its CPU time is lost") from error


@contextmanager
def running(server: Server, core: int, request: bytes) -> Iterator[Running]:
    """Start the server on the core, wait until it answers 200, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="obworker-bench-") as name:
        directory = Path(name)
        for file, text in server.files.items():
            (directory / file).write_text(text)
        port = _free_port()
        process = _start(server, directory, core, port)
        try:
            _wait_ready(server, process, port, request, directory / LOG_NAME)
            yield Running(server.name, port, process.pid)
        finally:
            _stop(process)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            for child in children.read_text().split():
                yield from _tree(int(child))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _start(server: Server, directory: Path, core: int, port: int) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).parent / server.argv[0]
    if not program.exists():
        raise BenchError(f"{server.name} did not start: no program {program}")
    arguments = [argument.replace("{port}", str(port)) for argument in server.argv[1:]]
    # Nothing else is passed on: GUNICORN_CMD_ARGS and its like would change what is measured.
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    with (directory / LOG_NAME).open("wb") as log:
        return subprocess.Popen(
            ["taskset", "--cpu-list", str(core), str(program), *arguments],
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
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    # Whoever the leader left behind still has its process group.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
