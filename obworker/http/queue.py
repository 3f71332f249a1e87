"""Where a whole request goes: to an executor, to another worker, into a queue, or back with 503.

Theory of operation. A request is answered at once if an executor is free. Otherwise it takes a
place in the queue, which is one queue for all workers: the request moves to the exchange with its
connection, and whichever worker is free takes it from there, the oldest first. It stays in this
worker if no other serves, if its connection cannot move, or if calls are so short that waiting
costs less than moving. If no place is free it is refused with 503, and so is one that has waited
too long. Every worker checks that for the requests in the exchange.

A worker watches the exchange only while it has a free executor. The kernel wakes one watcher for
each request that arrives, so a busy worker must not be among the watchers. A worker that was woken,
but became busy before it could look because of another thread, wakes the next.

When a worker was killed, the master gives back the places that the worker has reported. So a worker
reports a place before it takes it, and until after it has given it back. At worst a place is given
back twice, which is noticed as soon as nothing waits; a place that is lost would never be.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from obworker.errors import RequestError, ServiceUnavailable
from obworker.http.exchange import PLACES_PER_WORKER
from obworker.http.executors import SHORT
from obworker.http.reactor import READ_EXCLUSIVELY, Reactor

if TYPE_CHECKING:
    from obworker.http.exchange import Exchange, Parcel
    from obworker.settings import Settings

FULL = ServiceUnavailable(
    "too many requests wait already; try again", why="the queue was full, see --max-queue"
)
TOO_LATE = ServiceUnavailable(
    "no worker was free in time; try again", why="no worker was free in time, see --queue-timeout"
)
# Calls are short on average, but a request that has waited this long waits for a long one.
MOVED_AFTER = 0.1


class Waiter(Protocol):
    """A connection with a whole request, as the queue sees it."""

    @property
    def arrival(self) -> float:
        """The monotonic instant at which the request was whole."""

    def serve(self) -> None:
        """Have an executor answer the request; the queue does not use the waiter after that."""

    def refuse(self, error: RequestError) -> None:
        """Answer the request with an error."""

    def move(self, exchange: Exchange) -> bool:
        """Move to the exchange; return whether that was possible."""


class Takers(Protocol):
    """Who takes requests from the queue: the executors, or the batches in front of them."""

    @property
    def is_inline(self) -> bool:
        """Whether a call keeps the loop until it is over."""

    @property
    def busy(self) -> bool:
        """Whether a request that came now would have to wait."""

    @property
    def average(self) -> float:
        """The moving average of the time that a call takes, in seconds."""


class OwnPlaces:
    """The limit of the queue where there is no exchange, which has it for all workers otherwise."""

    def __init__(self, places: int) -> None:
        self._free = places

    @classmethod
    def of(cls, settings: Settings) -> OwnPlaces:
        """Return as many as the settings say."""
        return cls(PLACES_PER_WORKER if settings.max_queue is None else settings.max_queue)

    def reserve(self) -> bool:
        """Take a place, if one is free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def release(self) -> None:
        """Give a place back."""
        self._free += 1


class RequestQueue:
    """The queue as one worker sees it; `accept` is called with each parcel of another worker.

    The request in a parcel keeps its place until `vacate`, which must be called before it enters;
    `hold` says for how many that takes a while.

    `has_peers` says whether there are other workers: without any, the exchange would be a detour.
    `on_waiting` gets the number of places that only this worker can give back, whenever it changes;
    `on_failure` gets the reason when the exchange cannot be read.
    """

    def __init__(
        self,
        reactor: Reactor,
        executors: Takers,
        exchange: Exchange | None,
        places: Exchange | OwnPlaces,
        *,
        timeout: float,
        accept: Callable[[Parcel], object],
        on_waiting: Callable[[int], object],
        on_failure: Callable[[str], object],
    ) -> None:
        self.has_peers = exchange is not None
        self._reactor = reactor
        self._executors = executors
        self._exchange = exchange
        self._places = places
        self._timeout = timeout or math.inf
        self._accept = accept
        self._on_waiting = on_waiting
        self._on_failure = on_failure
        self._waiting: deque[Waiter] = deque()
        self._held = 0
        self._is_watching = False
        self._takes = exchange is not None
        self._refusal: RequestError | None = None

    def enter(self, waiter: Waiter) -> None:
        """Serve a request that has arrived, or have it wait."""
        if self._refusal is not None:
            self._turn_away(waiter, self._refusal)
        elif self._executors.is_inline:
            waiter.serve()  # nothing may follow: another thread may run the loop by then
        elif not self._executors.busy:
            self._serve(waiter)
        elif self._is_late(waiter.arrival, time.monotonic()):
            waiter.refuse(TOO_LATE)
        elif not self._reserve():
            waiter.refuse(FULL)
        elif self._are_long and self._move(waiter):
            self._tell()
        else:
            self._waiting.append(waiter)

    @property
    def would_move(self) -> bool:
        """Whether a request that came now would move to the exchange, if its connection can."""
        executors = self._executors
        return self.has_peers and not executors.is_inline and executors.busy and self._are_long

    def leave(self, waiter: Waiter) -> None:
        """Forget a request that waits, and give back its place."""
        self._places.release()
        self._forget(waiter)

    def check(self, now: float) -> None:
        """Refuse requests that have waited too long, here or in the exchange."""
        while self._waiting and self._is_late(self._waiting[0].arrival, now):
            self._pop().refuse(TOO_LATE)
        self._share(now)
        if self._exchange is None or not self._takes:
            return
        while self._executors.busy and self._has_late(self._exchange, now):
            if not self._take(self._exchange):
                return
        if not self._executors.busy:
            self.watch()  # it was not watched any more if there were no descriptors
            self._take(self._exchange)

    def _share(self, now: float) -> None:
        """Move requests that wait for a long call, although calls are short on average."""
        for waiter in [w for w in self._waiting if w.arrival + MOVED_AFTER <= now]:
            if self._move(waiter):
                self._forget(waiter)

    def _has_late(self, exchange: Exchange, now: float) -> bool:
        """Whether the first request in the exchange must be refused."""
        oldest = exchange.oldest()
        return oldest is not None and (self.refuses or self._is_late(oldest, now))

    def retire(self) -> None:
        """Take nothing from other workers any more."""
        self.leave_to_others()
        self._takes = False

    def rejoin(self) -> None:
        """Take from other workers again: no other worker will."""
        self._takes = self._exchange is not None
        if not self._executors.busy:
            self.watch()

    def refuse_all(self, error: RequestError) -> None:
        """Begin nothing any more: requests that wait here or arrive move, or get an error."""
        self._refusal = error
        while self._waiting:
            if self._move(self._waiting[0]):
                self._forget(self._waiting[0])
            else:
                self._pop().refuse(error)

    @property
    def refuses(self) -> bool:
        """Whether no request is begun here any more."""
        return self._refusal is not None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, here or in the exchange."""
        return not self._waiting and (self._exchange is None or self._exchange.oldest() is None)

    def _turn_away(self, waiter: Waiter, error: RequestError) -> None:
        """Move a request to other workers if they serve on, else refuse it."""
        if self._takes or not self._reserve():
            waiter.refuse(error)
        elif self._move(waiter):
            self._tell()
        else:
            self._places.release()
            self._tell()
            waiter.refuse(error)

    @property
    def _are_long(self) -> bool:
        """Whether calls are so long that moving costs less than waiting."""
        return self._executors.average >= SHORT

    def _is_late(self, arrival: float, now: float) -> bool:
        return arrival + self._timeout <= now

    def _pop(self) -> Waiter:
        """Remove and return the first request that waits here."""
        waiter = self._waiting[0]
        self.leave(waiter)
        return waiter

    def _forget(self, waiter: Waiter) -> None:
        self._waiting.remove(waiter)
        self._tell()

    def _reserve(self) -> bool:
        """Take a place, if one is free, and report it."""
        self._tell(1)
        if self._places.reserve():
            return True
        self._tell()
        return False

    def _tell(self, in_hand: int = 0) -> None:
        self._on_waiting(len(self._waiting) + self._held + in_hand)

    def _serve(self, waiter: Waiter) -> None:
        waiter.serve()
        if self._executors.busy:
            self.leave_to_others()

    def serve_next(self) -> None:
        """Begin requests that wait while an executor is free; then watch the exchange."""
        while not self._executors.busy:
            if not self._begin_oldest():
                self.watch()
                return

    def _begin_oldest(self) -> bool:
        """Begin the oldest request, here or in the exchange; return whether there was one.

        If those here came first, those in the exchange might wait for ever.
        """
        exchange = self._exchange if self._takes else None
        if not self._waiting:
            return exchange is not None and self._take(exchange)
        if exchange is None or not self._waits_longer(exchange) or not self._take(exchange):
            self._serve(self._pop())
        return True

    def _waits_longer(self, exchange: Exchange) -> bool:
        """Whether the first request in the exchange is older than the first here."""
        oldest = exchange.oldest()
        return oldest is not None and oldest < self._waiting[0].arrival

    # the exchange

    def _move(self, waiter: Waiter) -> bool:
        return self.has_peers and self._exchange is not None and waiter.move(self._exchange)

    def _take(self, exchange: Exchange) -> bool:
        """Take the first parcel, if there is one; nothing may follow if calls are inline."""
        self._tell(1)
        try:
            parcel = exchange.take()
        except OSError as error:
            self._tell()
            self._on_failure(str(error.strerror))
            self.ignore()
            return False
        if parcel is None:
            self._tell()
            return False
        self._reactor.call_safely(self._accept, parcel)  # or an error would end the watching
        return True

    def hold(self, parcels: int) -> None:
        """Note how many parcels were taken whose requests may not enter yet."""
        self._held = parcels
        self._tell()

    def vacate(self, parcel: Parcel, held: int) -> None:
        """Give back the place of the request in a parcel, if it has one; `held` others remain."""
        if parcel.head:
            self._places.release()
        self.hold(held)

    def watch(self) -> None:
        """Watch the exchange, for as long as an executor is free."""
        if self._exchange is not None and self._takes and not self._is_watching:
            self._is_watching = True
            self._reactor.watch(self._exchange.fileno(), READ_EXCLUSIVELY, self._parcel_waits)

    def leave_to_others(self) -> None:
        """Stop watching; wake another worker if something waits: maybe only this one was woken."""
        was_watching = self._is_watching
        self.ignore()
        if was_watching and self._exchange is not None and self._exchange.oldest() is not None:
            self._exchange.nudge()

    def ignore(self) -> None:
        """Stop watching the exchange, without waking another worker."""
        if self._exchange is not None and self._is_watching:
            self._is_watching = False
            self._reactor.forget(self._exchange.fileno())

    def _parcel_waits(self, _events: int) -> None:
        assert self._exchange is not None
        if self._executors.busy:
            self.leave_to_others()
        else:
            self._take(self._exchange)
