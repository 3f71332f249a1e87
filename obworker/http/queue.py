"""Where a whole request goes: to an executor, to another worker, into a queue, or back with 503.

Theory of operation. A request that finds an executor free is answered at once. One that does not
takes a place in the queue, which is one queue for all workers: it moves with its connection to the
exchange, and whichever worker is free takes it from there, the oldest first. It stays here when
there is nobody else, when its connection cannot move, or when calls are so short that waiting costs
less than moving. Without a place it is refused; so is one that has waited too long, wherever it
does: any worker looks after that for those in the exchange.

The exchange is watched only while an executor is free. It wakes one worker for each request that
comes into it, so one that is awake and busy must not be among those who wait. One that was woken
and became busy before it could look, by another thread's doing, wakes the next.

Whoever buries a worker that was killed gives back the places it has told of. So it tells of one
before it takes it, and until it has given it back: at worst a place is free twice, which shows as
soon as nothing waits, and none is lost for good, which never would.
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
# What is here for so long, although calls are short, waits for one that is not.
MOVED_AFTER = 0.1


class Waiter(Protocol):
    """A connection with a whole request, as the queue sees it."""

    @property
    def arrival(self) -> float:
        """The monotonic instant at which the request was whole."""

    def serve(self) -> None:
        """Have the request answered by an executor; nothing is done with the waiter after that."""

    def refuse(self, error: RequestError) -> None:
        """Answer with an error."""

    def move(self, exchange: Exchange) -> bool:
        """Go to the exchange; return whether that was possible."""


class Takers(Protocol):
    """The executors, one request or a batch at a time."""

    @property
    def is_inline(self) -> bool:
        """Whether what is served keeps the loop until it is over."""

    @property
    def busy(self) -> bool:
        """Whether a request would have to wait."""

    @property
    def average(self) -> float:
        """How long one of them is taken of late, in seconds."""


class OwnPlaces:
    """The bound of the queue of one worker alone; for all workers the exchange has it."""

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
    """The queue as one worker sees it; `accept` gets what comes from other workers.

    That has a place until `vacate`, which comes before it enters; `hold` counts those for which
    that takes a while.

    `has_peers` says whether there are any: to wait for oneself by way of the exchange is slower.
    `on_waiting` is told how many places this worker alone holds, as often as that changes,
    `on_failure` why it could not take what waits in the exchange.
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
        """Let a request that has come be served, or wait for it."""
        if self._refusal is not None:
            self._turn_away(waiter, self._refusal)
        elif self._executors.is_inline:
            waiter.serve()  # and nothing after it: somebody else may run the loop by then
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
        """Whether a request that came now would go to another worker, if it can move."""
        executors = self._executors
        return self.has_peers and not executors.is_inline and executors.busy and self._are_long

    def leave(self, waiter: Waiter) -> None:
        """Forget a request that waits, which needs no place any more."""
        self._places.release()
        self._forget(waiter)

    def check(self, now: float) -> None:
        """Refuse what has waited too long, here or in the exchange."""
        while self._waiting and self._is_late(self._waiting[0].arrival, now):
            self._pop().refuse(TOO_LATE)
        self._share(now)
        if self._exchange is None or not self._takes:
            return
        while self._executors.busy and self._has_late(self._exchange, now):
            if not self._take(self._exchange):
                return
        if not self._executors.busy:
            self.watch()  # it was left where there were no descriptors
            self._take(self._exchange)

    def _share(self, now: float) -> None:
        """Let those go elsewhere who wait for a long call, although most are short."""
        for waiter in [w for w in self._waiting if w.arrival + MOVED_AFTER <= now]:
            if self._move(waiter):
                self._forget(waiter)

    def _has_late(self, exchange: Exchange, now: float) -> bool:
        """Whether the first in the exchange is to be told that nobody will serve it."""
        oldest = exchange.oldest()
        return oldest is not None and (self.refuses or self._is_late(oldest, now))

    def retire(self) -> None:
        """Take nothing more from other workers."""
        self.leave_to_others()
        self._takes = False

    def rejoin(self) -> None:
        """Take from other workers again: nobody else will."""
        self._takes = self._exchange is not None
        if not self._executors.busy:
            self.watch()

    def refuse_all(self, error: RequestError) -> None:
        """Begin nothing more: what waits here, and what comes, goes elsewhere or gets an error."""
        self._refusal = error
        while self._waiting:
            if self._move(self._waiting[0]):
                self._forget(self._waiting[0])
            else:
                self._pop().refuse(error)

    @property
    def refuses(self) -> bool:
        """Whether nothing more is begun here."""
        return self._refusal is not None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, here or in the exchange."""
        return not self._waiting and (self._exchange is None or self._exchange.oldest() is None)

    def _turn_away(self, waiter: Waiter, error: RequestError) -> None:
        """Let a request go to other workers, where they go on when this one has ended."""
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
        """Whether to wait for a call costs more than to move."""
        return self._executors.average >= SHORT

    def _is_late(self, arrival: float, now: float) -> bool:
        return arrival + self._timeout <= now

    def _pop(self) -> Waiter:
        """Return the first that waits, and forget it."""
        waiter = self._waiting[0]
        self.leave(waiter)
        return waiter

    def _forget(self, waiter: Waiter) -> None:
        self._waiting.remove(waiter)
        self._tell()

    def _reserve(self) -> bool:
        """Take a place, if one is free, and tell of it."""
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
        """Begin what waits, as far as executors are free; then wait for what comes."""
        while not self._executors.busy:
            if not self._begin_oldest():
                self.watch()
                return

    def _begin_oldest(self) -> bool:
        """Begin what has waited longest, here or in the exchange; return whether anything did.

        To prefer what is here would leave the rest waiting for as long as more comes here.
        """
        exchange = self._exchange if self._takes else None
        if not self._waiting:
            return exchange is not None and self._take(exchange)
        if exchange is None or not self._waits_longer(exchange) or not self._take(exchange):
            self._serve(self._pop())
        return True

    def _waits_longer(self, exchange: Exchange) -> bool:
        """Whether the first in the exchange has come before the first here."""
        oldest = exchange.oldest()
        return oldest is not None and oldest < self._waiting[0].arrival

    # the exchange

    def _move(self, waiter: Waiter) -> bool:
        return self.has_peers and self._exchange is not None and waiter.move(self._exchange)

    def _take(self, exchange: Exchange) -> bool:
        """Go on with the first parcel, if there is one; nothing may follow where it is inline."""
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
        self._reactor.call_safely(self._accept, parcel)  # else nobody would watch for the next
        return True

    def hold(self, parcels: int) -> None:
        """Count so many that were taken and are not to be let in yet."""
        self._held = parcels
        self._tell()

    def vacate(self, parcel: Parcel, held: int) -> None:
        """Give back the place of a request that was taken, if it is one; so many are still held."""
        if parcel.head:
            self._places.release()
        self.hold(held)

    def watch(self) -> None:
        """Take what other workers put into the exchange, for as long as an executor is free."""
        if self._exchange is not None and self._takes and not self._is_watching:
            self._is_watching = True
            self._reactor.watch(self._exchange.fileno(), READ_EXCLUSIVELY, self._parcel_waits)

    def leave_to_others(self) -> None:
        """Take nothing more for now, and have another woken for what waits: maybe only we were."""
        was_watching = self._is_watching
        self.ignore()
        if was_watching and self._exchange is not None and self._exchange.oldest() is not None:
            self._exchange.nudge()

    def ignore(self) -> None:
        """Watch the exchange no more, for whoever has seen to what it told of."""
        if self._exchange is not None and self._is_watching:
            self._is_watching = False
            self._reactor.forget(self._exchange.fileno())

    def _parcel_waits(self, _events: int) -> None:
        assert self._exchange is not None
        if self._executors.busy:
            self.leave_to_others()
        else:
            self._take(self._exchange)
