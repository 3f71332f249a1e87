"""A closed-loop HTTP/1.1 client: a connection sends its next request after the last answer."""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.claims import counted
from benchmarks.servers import BenchError

LONGEST_SECONDS = 1800.0
STALL_SECONDS = 5.0
"""For how many seconds all connections may be silent before the round is given up."""

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Exchange:
    """A JSON body to send in a POST, and the answer to expect: 200 with `answer` as JSON."""

    body: bytes
    answer: object
    path: str = "/"

    def request(self) -> bytes:
        """Return the request's bytes."""
        return json_head(len(self.body), self.path) + self.body


def json_head(length: int, path: str = "/") -> bytes:
    """Return the head of a request with so many bytes of JSON."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


@dataclass
class Round:
    """The results of a round of load."""

    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    wall: float = 0.0

    def without_failures(self, name: str) -> Round:
        """Return the round itself; raise BenchError if a request to that server failed."""
        if self.failures:
            reasons = counted(self.failures, most=3)
            raise BenchError(f"{name}: {self.failures.total()} requests failed: {reasons}")
        return self


@dataclass
class _Connection:
    socket: socket.socket
    received: bytes = b""


class _Verdict(NamedTuple):
    failure: str | None
    keep: bool


class Load:
    """A round of load on one server, with a limit for the requests and for the time."""

    def __init__(self, port: int, exchange: Exchange, requests: int, seconds: float) -> None:
        self._port = port
        self._exchange = exchange
        self._request = exchange.request()
        self._left = requests
        self._seconds = seconds
        self._deadline = 0.0
        self._selector = selectors.DefaultSelector()
        self._verified = b""
        self._round = Round()

    def run(self, connections: int) -> Round:
        """Send the requests on so many connections, and return the results."""
        started = time.monotonic()
        self._deadline = started + self._seconds
        try:
            for _ in range(connections):
                self._open()
            self._loop()
        finally:
            for key in list(self._selector.get_map().values()):
                key.data.socket.close()
            self._selector.close()
        self._round.wall = time.monotonic() - started
        return self._round

    def _loop(self) -> None:
        while waiting := len(self._selector.get_map()):
            ready = self._selector.select(STALL_SECONDS)
            if not ready:
                self._round.failures[f"no answer in {STALL_SECONDS:.0f} s"] += waiting
                return
            for key, _ in ready:
                self._receive(key.data)

    def _take(self) -> bool:
        """Tell whether one more request may be sent, and count it."""
        if self._left == 0 or time.monotonic() >= self._deadline:
            return False
        self._left -= 1
        return True

    def _open(self) -> None:
        """Connect and send a request; repeat until that works or no request is left."""
        while self._take():
            try:
                client = socket.create_connection(("127.0.0.1", self._port), STALL_SECONDS)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sendall(self._request)
            except OSError as error:
                self._round.failures[str(error)] += 1
                continue
            self._selector.register(client, selectors.EVENT_READ, _Connection(client))
            return

    def _receive(self, connection: _Connection) -> None:
        """Read what has arrived; once an answer is complete, check it and send the next request."""
        try:
            arrived = connection.socket.recv(65536)
        except OSError as error:
            self._end(connection, _Verdict(str(error), keep=False))
            return
        connection.received += arrived
        # Most answers are the same as the last one, byte for byte, and need no parsing.
        if connection.received == self._verified:
            self._end(connection, _Verdict(None, keep=True))
        elif verdict := _judge(connection.received, not arrived, self._exchange.answer):
            if verdict == (None, True):
                self._verified = connection.received
            self._end(connection, verdict)

    def _end(self, connection: _Connection, verdict: _Verdict) -> None:
        if verdict.failure is None:
            self._round.answered += 1
        else:
            self._round.failures[verdict.failure] += 1
        if verdict.keep and self._resend(connection):
            return
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._open()

    def _resend(self, connection: _Connection) -> bool:
        if not self._take():
            return False
        connection.received = b""
        try:
            connection.socket.sendall(self._request)
        except OSError as error:
            self._round.failures[str(error)] += 1
            return False
        return True


def send_all(port: int, exchange: Exchange, requests: int, connections: int) -> float:
    """Send all requests, which must be answered as expected; return how many seconds it took."""
    load = Load(port, exchange, requests, LONGEST_SECONDS).run(connections)
    if load.answered < requests:
        failed = counted(load.failures)
        raise BenchError(f"{load.answered} of {requests} answered; failed: {failed}")
    return load.wall


def _judge(received: bytes, at_end: bool, answer: object) -> _Verdict | None:
    """Check the answer if it is complete; return None if it is not.

    An answer that announces the end of the connection counts as complete only at the end of the
    stream. If the client closed first, its ports would stay in TIME_WAIT, and run out.
    """
    head, found, body = received.partition(b"\r\n\r\n")
    head += b"\r\n"
    length = LENGTH.search(head)
    closes = CLOSE.search(head) is not None
    if found and length is None:
        return _Verdict("an answer without Content-Length", keep=False)
    if length is None or len(body) < int(length[1]) or (closes and not at_end):
        return _Verdict("closed before a whole answer", keep=False) if at_end else None
    if not head.startswith(b"HTTP/1.1 200 "):
        status = head.partition(b"\r\n")[0].decode("latin-1")
        return _Verdict(f"answered {status}", keep=False)
    if not _same_json(body, answer):
        return _Verdict("another body than expected", keep=False)
    return _Verdict(None, keep=not closes)


def _same_json(body: bytes, answer: object) -> bool:
    try:
        return bool(json.loads(body) == answer)
    except ValueError:
        return False
