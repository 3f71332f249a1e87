"""Clients of many kinds; each runs in its own thread."""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from turmoil import sending
from turmoil.ledger import Answered, Ledger, Loss
from turmoil.links import Link
from turmoil.orders import Order, Wrong, large, short, streamed

RECOVERY_SECONDS = 0.02
MOST_PATIENCE = 0.05
# A draining server closes connections that have been idle for 1 s (docs/timeouts.md). It counts
# from when it sent the last response, the client from when it had read it, which may be later.
LEAST_IDLE_SECONDS = 0.5


class Kind(NamedTuple):
    """How a client behaves.

    That is how it sends a request, what it asks for, how many requests it pipelines, how long it
    rests between requests, whether it keeps its connection, and whether it waits for the response.
    """

    name: str
    send: Callable[[Link, Sequence[Order], Random], None] = sending.whole
    order: Callable[[str, Random], Order] = short
    most_at_once: int = 1
    longest_rest: float = 0.008
    keeps: bool = True
    stays: bool = True


KEPT = Kind("kept")
IDLE = Kind("idle", longest_rest=1.5)
NEW = Kind("new", keeps=False)
PIPELINED = Kind("pipelined", most_at_once=8)
RUDE = Kind("rude", keeps=False, stays=False, longest_rest=0.1)
LARGE = Kind("large", order=large)
STREAMED = Kind("streamed", order=streamed)
SLOW = Kind("slow", sending.slowly, keeps=False)
CHUNKED = Kind("chunked", sending.chunked)
EXPECTING = Kind("expecting", sending.expecting)

CROWD = (KEPT, KEPT, IDLE, IDLE, IDLE, NEW, NEW, PIPELINED, RUDE, LARGE, SLOW, CHUNKED, EXPECTING)


@dataclass(frozen=True)
class Place:
    """How to reach the server."""

    port: int
    tls: ssl.SSLContext | None
    is_closing: threading.Event
    """Set when the server begins to stop: from then on it may refuse connections."""


class Client:
    """Sends requests, one at a time or pipelined, and records in the ledger how each one ended."""

    def __init__(self, kind: Kind, name: str, place: Place, ledger: Ledger, random: Random) -> None:
        self._kind = kind
        self._name = name
        self._place = place
        self._ledger = ledger
        self._random = random
        self._number = 0
        self._link: Link | None = None

    def run(self, over: threading.Event) -> None:
        """Send requests until `over` is set, or until the server refuses because it stops."""
        while not over.is_set():
            try:
                self._ask()
            except OSError as error:  # the connection was refused
                if self._place.is_closing.is_set():
                    break
                self._ledger.fail(f"{self._name}: {error}")
            over.wait(self._random.uniform(0, self._kind.longest_rest))
        self._leave()

    def _ask(self) -> None:
        orders = [self._order() for _ in range(self._random.randint(1, self._kind.most_at_once))]
        link = self._connected()
        kept_idle = time.monotonic() - link.heard if link.heard is not None else None
        for order in orders:
            self._ledger.send(self._kind.name, order.id)
        unanswered = deque(orders)
        began = link.opened if link.heard is None else time.monotonic()
        began -= link.rested
        try:
            link.secure()
            self._kind.send(link, orders, self._random)
            if self._kind.stays:
                self._hear(link, unanswered, began + link.rested)
            else:
                self._go_rudely(link)
        except (OSError, ValueError, Wrong) as error:
            is_first = len(unanswered) == len(orders)
            self._lose(link, unanswered, error, kept_idle if is_first else None)

    def _order(self) -> Order:
        self._number += 1
        return self._kind.order(f"{self._name}-{self._number}", self._random)

    def _connected(self) -> Link:
        """Return the kept connection if the server has not closed it, and a new one otherwise."""
        if self._link and self._link.is_over:
            self._leave()
            self._ledger.find_closed()
        if self._link is None:
            self._link = Link(self._place.port, self._place.tls)
        return self._link

    def _hear(self, link: Link, unanswered: deque[Order], since: float) -> None:
        while unanswered:
            answer = link.hear()
            worker = unanswered[0].worker(answer)
            now = time.monotonic()
            order = unanswered.popleft()
            self._ledger.answered.append(Answered(order.id, worker, now, now - since))
            since = now
            if answer.is_last:
                break
        if answer.is_last or not self._kind.keeps:
            self._leave()
        now = time.monotonic()
        for order in unanswered:
            how = "unanswered behind Connection: close"
            loss = Loss(order.id, now, how, link.port, link.opened, is_cut=True, may_be_unread=True)
            self._ledger.losses.append(loss)

    def _go_rudely(self, link: Link) -> None:
        time.sleep(self._random.uniform(0, MOST_PATIENCE))
        if self._random.random() < 0.5:
            link.reset()
        self._leave()

    def _lose(
        self, link: Link, unanswered: deque[Order], error: Exception, idle: float | None
    ) -> None:
        """Record the requests that were lost with a connection.

        A client that leaves without waiting for its response has lost nothing.
        """
        self._leave()
        is_cut = isinstance(error, (ConnectionError, ssl.SSLError))
        may_be_unread = idle is not None and idle >= LEAST_IDLE_SECONDS and not link.is_answering
        if not self._kind.stays and is_cut:
            return
        how = f"{type(error).__name__}: {error}"
        for order in unanswered:
            self._ledger.losses.append(
                Loss(
                    *(order.id, time.monotonic(), how, link.port, link.opened),
                    *(is_cut, may_be_unread, idle or 0.0),
                )
            )
        time.sleep(RECOVERY_SECONDS)

    def _leave(self) -> None:
        if self._link:
            self._link.close()
        self._link = None
