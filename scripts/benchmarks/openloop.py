"""An open-loop HTTP/1.1 client, which sends requests when they are due, however slow the server is.

It has one thread, one epoll and non-blocking sockets. An arrival takes a free connection at random,
as independent clients would; if all are busy, it waits for one, in order. Its latency counts from
the instant at which it was due, so neither a slow server nor a late client can hide any of it (no
"coordinated omission"). `lag` records how late the client itself was, which shows whether the
client was the bottleneck.

The timeout of epoll_wait(2) is in whole milliseconds, which is too coarse. So select(2), with a
timeout in microseconds, waits for the epoll.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import Counter, deque
from contextlib import contextmanager, suppress
from random import Random
from typing import TYPE_CHECKING

from benchmarks.connection import Connection
from benchmarks.outcomes import UNANSWERED, UNSENT, Arrival, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextmanager
def _preferred() -> Iterator[None]:
    """Give this thread priority over all others, if that is allowed.

    A low nice value is not enough: on a busy machine the thread could still have to wait until
    another one's time slice ends.
    """
    usual, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        # The flag stays set, because clearing it needs more privilege than setting it (sched(7)).
        os.sched_setscheduler(0, usual | os.SCHED_RESET_ON_FORK, priority)


@contextmanager
def connected(port: int, connections: int) -> Iterator[OpenLoop]:
    """Open so many connections to a port of this machine, and close them after the block."""
    client = OpenLoop(port, connections)
    try:
        client.open()
        yield client
    finally:
        client.close()


class OpenLoop:
    """Keep-alive connections for runs of arrivals.

    `closed` counts the connections that the server closed, idle ones or with an answer.
    """

    def __init__(self, port: int, connections: int) -> None:
        self.closed: Counter[str] = Counter()
        self._port = port
        self._source = Random(connections)
        # It is made before the sockets, because select(2) takes no descriptor above 1023.
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._connections = connections
        self._free = [Connection() for _ in range(connections)]
        self._waiting: deque[Outcome] = deque()
        self._began = 0.0

    def open(self) -> None:
        """Open all connections."""
        for connection in self._free:
            self._open(connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._by_fd.values()):
            self._close(connection)
        self._epoll.close()

    def run(self, arrivals: Iterable[Arrival], patience: float) -> list[Outcome]:
        """Send each request when it is due; wait up to `patience` seconds for the last answers."""
        with _preferred():
            return self._run(arrivals, patience)

    def _run(self, arrivals: Iterable[Arrival], patience: float) -> list[Outcome]:
        self._began = time.monotonic()
        coming = iter(arrivals)
        due = next(coming, None)
        outcomes: list[Outcome] = []
        last = 0.0
        while due or self._is_busy():
            now = self._now()
            while due and due.at <= now:
                outcomes.append(Outcome(due.at, due.message, now - due.at))
                self._waiting.append(outcomes[-1])
                last, due = due.at, next(coming, None)
            self._start_waiting()
            until = due.at if due else last + patience
            if not due and now > until:
                self._give_up()
            self._poll(until)
        return outcomes

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _is_busy(self) -> bool:
        return bool(self._waiting) or len(self._free) < self._connections

    def _start_waiting(self) -> None:
        while self._waiting and self._free:
            self._start(self._take_free(), self._waiting.popleft())

    def _take_free(self) -> Connection:
        """Take a free connection at random."""
        place = self._source.randrange(len(self._free))
        self._free[place], self._free[-1] = self._free[-1], self._free[place]
        return self._free.pop()

    def _start(self, connection: Connection, outcome: Outcome) -> None:
        if connection.socket is None:
            self._open(connection)
        connection.start(outcome)
        self._send(connection)

    def _open(self, connection: Connection) -> None:
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect_ex(("127.0.0.1", self._port))  # the first send reports a failure
        connection.socket = client
        self._by_fd[client.fileno()] = connection
        self._epoll.register(client, select.EPOLLIN)

    def _close(self, connection: Connection) -> None:
        """Close a connection; its next request opens it again."""
        assert connection.socket
        del self._by_fd[connection.socket.fileno()]
        connection.socket.close()
        connection.socket = None

    def _poll(self, until: float) -> None:
        """Wait for the sockets until that instant at most, and handle those that are ready."""
        select.select([self._epoll], [], [], max(0.0, until - self._now()))
        for fd, event in self._epoll.poll(0):
            connection = self._by_fd.get(fd)
            if connection and event & ~select.EPOLLOUT:
                self._receive(connection)
            elif connection:
                self._send(connection)

    def _send(self, connection: Connection) -> None:
        assert connection.socket
        try:
            connection.send()
        except OSError:
            # The server may have answered before it stopped reading, so the answer is read, too.
            connection.unsent.clear()
        wanted = select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0)
        self._epoll.modify(connection.socket, wanted)

    def _receive(self, connection: Connection) -> None:
        try:
            is_open = connection.receive()
            if connection.outcome and connection.is_answered():
                self._answered(connection)
            elif not is_open:
                self._lost(connection, "closed before a whole answer")
        except (OSError, ValueError) as error:
            self._lost(connection, str(error))

    def _answered(self, connection: Connection) -> None:
        assert connection.outcome
        connection.outcome.status = connection.status()
        if connection.closes():
            self.closed["by its answer"] += 1
        if connection.closes() or connection.unsent:
            self._close(connection)
        self._release(connection)

    def _lost(self, connection: Connection, reason: str) -> None:
        self._close(connection)
        if connection.outcome:
            connection.outcome.failure = reason
            self._release(connection)
        else:
            self.closed["while idle"] += 1

    def _release(self, connection: Connection) -> None:
        assert connection.outcome
        connection.outcome.done = self._now()
        connection.outcome = None
        self._free.append(connection)

    def _give_up(self) -> None:
        """Abandon all requests that have no answer."""
        for connection in list(self._by_fd.values()):
            if connection.outcome:
                self._lost(connection, UNANSWERED)
        for outcome in self._waiting:
            outcome.done, outcome.failure = self._now(), UNSENT
        self._waiting.clear()
