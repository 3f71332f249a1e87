"""The event loop: epoll, timers, and calls that other threads post.

Theory of operation. One thread at a time runs the loop, but not always the same one. Each passes
its own `Turn`, and runs the loop while that turn `steers`. A turn may end in the middle of a batch
of events. The rest of the batch is then dropped, which loses nothing: epoll is level-triggered, and
reports them to the next thread; posted calls and timers stay queued until they are called.

The thread that runs the loop also passes the lock that guards its state, which others may hold
while it waits. The kernel sees descriptors that they watch or forget meanwhile (epoll_ctl(2)); a
new timer wakes the loop.

Everything but `post` and `ring` is for the thread that runs the loop, for the holder of its lock,
or for the time before it runs.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
# Of the processes that wait for a shared descriptor, not all are woken (epoll_ctl(2)).
READ_EXCLUSIVELY = select.EPOLLIN | select.EPOLLEXCLUSIVE

logger = logging.getLogger("obworker.http")

OnEvent = Callable[[int], object]


class Turn:
    """The time in which one thread runs the loop."""

    __slots__ = ("steers",)

    def __init__(self, *, steers: bool = False) -> None:
        self.steers = steers

    def end(self) -> None:
        """Have the thread leave the loop."""
        self.steers = False


class Timer:
    """A call that is due at a time of the monotonic clock."""

    __slots__ = ("arguments", "call", "due", "number")

    def __init__(
        self, due: float, number: int, call: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        self.due = due
        self.number = number
        self.call: Callable[..., object] | None = call
        self.arguments = arguments

    def __lt__(self, other: Timer) -> bool:
        return (self.due, self.number) < (other.due, other.number)

    def cancel(self) -> None:
        """Do not make the call; no effect if it was made or cancelled already."""
        self.call = None


class Reactor:
    """Makes calls when descriptors are ready or time has passed, and those that were posted."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, OnEvent] = {}
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = False
        self.watch(self._bell, READ, self._answer_bell)

    # descriptors

    def watch(self, descriptor: int, events: int, on_event: OnEvent) -> None:
        """Call `on_event` with the events of a descriptor, whenever there are any."""
        self._epoll.register(descriptor, events)
        self._watched[descriptor] = on_event

    def change(self, descriptor: int, events: int) -> None:
        """Watch for other events; errors and hang-ups are always reported."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor, if it is watched; call this before closing it."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    # calls

    def post(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have the loop's thread make a call; from any thread, in the order of posting."""
        self._posted.append((call, arguments))
        self.ring()

    def ring(self) -> None:
        """Wake the loop; from any thread."""
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._bell, 1)

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> Timer:
        """Make a call when some time has passed."""
        timer = Timer(time.monotonic() + seconds, next(self._numbers), call, arguments)
        heapq.heappush(self._timers, timer)
        if timer is self._timers[0]:  # the loop may wait for longer than that
            self.ring()
        return timer

    def call_safely(self, call: Callable[..., object], *arguments: Any) -> None:
        """Make a call now; an exception is a bug of ours, and is logged."""
        try:
            call(*arguments)
        except Exception:  # the worker's seam
            logger.exception("a bug in obworker, which goes on")

    # the loop

    def run(self, turn: Turn, lock: AbstractContextManager[object]) -> None:
        """Run the loop while `turn` steers; `lock` is held except while it waits."""
        patience: float | None = 0.0
        while turn.steers:
            happened = self._epoll.poll(patience)
            with lock:
                self._see_to(turn, happened)
                patience = self._patience()

    def _see_to(self, turn: Turn, happened: list[tuple[int, int]]) -> None:
        try:
            if turn.steers:
                self._dispatch(turn, happened)
            if self._posted:
                self._make_posted(turn)
            if self._timers:
                self._make_due(turn)
        except Exception:  # the worker's seam
            logger.exception("a bug in obworker, which goes on")

    def close(self) -> None:
        """Close the descriptors that the loop itself has opened."""
        self._epoll.close()
        os.close(self._bell)

    def _patience(self) -> float | None:
        if self._posted:
            return 0
        return max(0.0, self._timers[0].due - time.monotonic()) if self._timers else None

    def _dispatch(self, turn: Turn, happened: list[tuple[int, int]]) -> None:
        watched = self._watched
        for descriptor, events in happened:
            on_event = watched.get(descriptor)
            if on_event is None:
                continue  # an earlier event of the batch has closed it
            try:
                on_event(events)
            except Exception:
                self.forget(descriptor)  # or the event would come again and again
                raise
            if not turn.steers:
                return

    def _make_posted(self, turn: Turn) -> None:
        for _ in range(len(self._posted)):
            if not turn.steers:
                return
            call, arguments = self._posted.popleft()
            call(*arguments)

    def _make_due(self, turn: Turn) -> None:
        now = time.monotonic()
        while turn.steers and self._timers and self._timers[0].due <= now:
            timer = heapq.heappop(self._timers)
            if timer.call is not None:
                timer.call(*timer.arguments)

    def _answer_bell(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self._rung = False
