"""Slow clients, in a process with the lowest priority.

They stand for clients on other machines, whose work does not take CPU time from the server.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import resource
import select
import signal
import socket
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.load import json_head
from benchmarks.servers import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

STEP_SECONDS = 1.0
# All clients must have connected at most this long after the time that they are given for it.
START_SECONDS = 60.0
LOWEST_PRIORITY = 19

HEADER = "header"
BODY = "body"
READER = "reader"
KINDS = (HEADER, BODY, READER)
RECEIVE_BYTES = 4096

_ASKING = b'{"large":true}'
FIRST = {
    HEADER: b"P",
    BODY: json_head(1_000_000),
    READER: json_head(len(_ASKING)) + _ASKING,
}
HEADER_TEXT = b"OST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"x" * 4000
BODY_STEP = b" " * 10


def raise_open_files(needed: int) -> None:
    """Raise the limit of open files of this process and its children, as far as is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


@dataclass
class Course:
    """How many clients of each kind the server cut off, and how late a step was at most."""

    cut: Counter[str] = field(default_factory=Counter)
    latest: float = 0.0


@contextmanager
def slow_clients(port: int, count: int, seconds: float) -> Iterator[Course]:
    """Run a process with so many slow clients of a port, a third of each kind.

    They connect evenly within so many seconds, and connect again when they are cut off. All have
    connected once before the block runs. The yielded object has the results after the block.
    """
    course = Course()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_work, args=(port, count, seconds, theirs, ours), daemon=True
    )
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds + START_SECONDS):
            raise BenchError(f"the slow clients took {START_SECONDS:.0f} s too long to connect")
        ours.recv()
        yield course
        ours.send(None)
        course.cut, course.latest = ours.recv()
    except EOFError:
        raise BenchError("the slow clients could not connect") from None
    finally:
        ours.close()
        process.join()


def _work(port: int, count: int, seconds: float, pipe: Connection, other_end: Connection) -> None:
    """Run the slow clients until the other end of the pipe says so or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end gets it too, and ends this one
    os.nice(LOWEST_PRIORITY)
    other_end.close()
    crowd = _Crowd(port, [KINDS[number % len(KINDS)] for number in range(count)], seconds)
    while not crowd.has_come and not pipe.poll():
        crowd.step()
    with suppress(EOFError, BrokenPipeError):
        pipe.send(None)
        while not pipe.poll():
            crowd.step()
        pipe.recv()
        pipe.send((crowd.cut, crowd.latest))


class _Client:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.socket: socket.socket | None = None
        self.rest = iter(HEADER_TEXT)


class _Crowd:
    """All slow clients; each takes one step per second, all at different instants."""

    def __init__(self, port: int, kinds: Sequence[str], seconds: float) -> None:
        self.cut: Counter[str] = Counter()
        self.latest = 0.0
        self._port = port
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Client] = {}
        self._last = time.monotonic() + seconds
        self._steps = [  # in order of time, which is what a heap has to be
            (self._last - seconds * (1 - number / len(kinds)), number, _Client(kind))
            for number, kind in enumerate(kinds)
        ]

    @property
    def has_come(self) -> bool:
        """Whether each client has connected once."""
        return self._steps[0][0] >= self._last

    def step(self) -> None:
        """Find out which clients were cut off, and let those take a step whose turn it is."""
        wait = self._steps[0][0] - time.monotonic()
        for fd, _ in self._epoll.poll(max(0.0, wait)):
            self._drop(self._by_fd[fd])
        while (late := time.monotonic() - self._steps[0][0]) >= 0:
            self.latest = max(self.latest, late)
            due, number, client = self._steps[0]
            self._act(client)
            heapq.heapreplace(self._steps, (due + STEP_SECONDS, number, client))

    def _connect(self, client: _Client) -> None:
        client.socket = socket.socket()
        client.rest = iter(HEADER_TEXT)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        client.socket.connect(("127.0.0.1", self._port))
        client.socket.setblocking(False)
        client.socket.send(FIRST[client.kind])
        self._by_fd[client.socket.fileno()] = client
        self._epoll.register(client.socket, select.EPOLLRDHUP)

    def _act(self, client: _Client) -> None:
        try:
            if client.socket is None:
                self._connect(client)
            elif client.kind == HEADER:
                client.socket.send(bytes([next(client.rest)]))
            elif client.kind == BODY:
                client.socket.send(BODY_STEP)
        except OSError:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        """Close a connection that the server has ended; the next step opens another."""
        assert client.socket
        self.cut[client.kind] += 1
        self._by_fd.pop(client.socket.fileno(), None)
        client.socket.close()
        client.socket = None
