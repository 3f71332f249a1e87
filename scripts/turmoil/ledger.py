"""Records everything that happened in a run, as the clients and the operator saw it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from turmoil.spells import Spell


class Answered(NamedTuple):
    """A request that got the right response, from which worker, and when (monotonic).

    `seconds` is how long the client waited for it. The time does not count in which the client
    itself paused while sending, or waited for the responses to earlier pipelined requests.
    """

    id: str
    worker: int
    at: float
    seconds: float


class Loss(NamedTuple):
    """A request that got no response, or a wrong one.

    `port` is the client's port of the connection, None if there was no connection, and `opened` is
    when the connection was made. `may_be_unread` says that the server may never have read the
    request, as HTTP allows: it was sent on a kept connection, `idle` seconds after the previous
    response, and the server closed that connection without responding; or it was pipelined behind
    a request whose response announced the end of the connection.
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
        """Say when which request was lost, and how."""
        where = f"port {self.port}, idle {self.idle:.2f} s"
        return f"{time_of_day(self.at)} {self.id} ({where}): {self.how}"


class Operation(NamedTuple):
    """Something that was done to the server, and when it began."""

    name: str
    at: float


class Fault(NamedTuple):
    """Something other than a lost request that went wrong, and when."""

    what: str
    at: float

    def __str__(self) -> str:
        """Say what happened, and when."""
        return f"{time_of_day(self.at)} {self.what}"


class Kill(NamedTuple):
    """A process that was killed, and the client ports of the connections that it held then."""

    pid: int
    at: float
    ports: frozenset[int]


@dataclass
class Ledger:
    """The record of a run; many threads write to it."""

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
        """Note an operation on the server that begins now."""
        with self._lock:
            self.operations.append(Operation(name, time.monotonic()))

    def fail(self, what: str) -> None:
        """Note something other than a lost request that went wrong."""
        with self._lock:
            self.faults.append(Fault(what, time.monotonic()))

    def find_closed(self) -> None:
        """Note a kept connection that the server closed between two requests."""
        with self._lock:
            self.closed_idle += 1


def time_of_day(at: float) -> str:
    """Return a monotonic instant as the server's log writes it: local time with milliseconds."""
    moment = at + time.time() - time.monotonic()
    return f"{time.strftime('%H:%M:%S', time.localtime(moment))},{int(moment % 1 * 1000):03}"
