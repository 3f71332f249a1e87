"""What became of all requests, as their clients saw it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from turmoil.spells import Spell


class Answered(NamedTuple):
    """A request that got its answer, from that process, at that monotonic time.

    `seconds` is how long the client waited: not while it took its time to send, nor for the answers
    to what it had sent before.
    """

    id: str
    worker: int
    at: float
    seconds: float


class Loss(NamedTuple):
    """A request that got none, or a wrong one.

    `port` is the client's end of the connection, which was opened at `opened`; None where there was
    none. `may_be_unread` tells that the client must reckon with a server that has never read it: it
    was sent over a kept connection that then ended without a word, `idle` seconds after the answer
    before, or behind an answer that was to be the last.
    """

    id: str
    at: float
    how: str
    port: int | None = None
    opened: float = 0.0
    is_cut: bool = False
    may_be_unread: bool = False
    idle: float = 0.0

    def __str__(self) -> str:
        """Say what happened to whom, and when."""
        where = f"port {self.port}, idle {self.idle:.2f} s"
        return f"{time_of_day(self.at)} {self.id} ({where}): {self.how}"


class Operation(NamedTuple):
    """Something that was done to the server, and when that began."""

    name: str
    at: float


class Fault(NamedTuple):
    """Something else that went wrong, and when."""

    what: str
    at: float

    def __str__(self) -> str:
        """Say what happened, and when."""
        return f"{time_of_day(self.at)} {self.what}"


class Kill(NamedTuple):
    """A process that was killed, and the clients' ends of the connections that it then held."""

    pid: int
    at: float
    ports: frozenset[int]


@dataclass
class Ledger:
    """All of it, written to by many threads."""

    sent: set[str] = field(default_factory=set)
    answered: list[Answered] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    operations: list[Operation] = field(default_factory=list)
    spells: list[Spell] = field(default_factory=list)
    probes: Counter[str] = field(default_factory=Counter)
    closed_idle: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, kind: str, id: str) -> None:
        """Note a request that is about to be sent."""
        with self._lock:
            self.sent.add(id)
            self.requests[kind] += 1

    def probe(self, kind: str) -> None:
        """Note a question to the admin process."""
        with self._lock:
            self.probes[kind] += 1

    def operate(self, name: str) -> None:
        """Note something that is done to the server."""
        with self._lock:
            self.operations.append(Operation(name, time.monotonic()))

    def fail(self, what: str) -> None:
        """Note what is wrong beside lost requests."""
        with self._lock:
            self.faults.append(Fault(what, time.monotonic()))

    def find_closed(self) -> None:
        """Note a kept connection that was closed while nothing was asked over it."""
        with self._lock:
            self.closed_idle += 1


def time_of_day(at: float) -> str:
    """Return what a server's log has for a monotonic instant: local time with milliseconds."""
    moment = at + time.time() - time.monotonic()
    return f"{time.strftime('%H:%M:%S', time.localtime(moment))},{int(moment % 1 * 1000):03}"
