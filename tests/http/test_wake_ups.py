"""Which worker wakes up for what waits in the exchange: real event loops, each on its thread."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from types import SimpleNamespace, TracebackType
from typing import Any, cast

import pytest
from harness import eventually

from obworker.http.exchange import Exchange, Parcel
from obworker.http.executors import SHORT, Executors
from obworker.http.queue import RequestQueue, Waiter
from obworker.http.reactor import Reactor, Turn


class Wheel:
    """A lock that tells how often its loop wanted it, and had it."""

    def __init__(self) -> None:
        self.wanted = self.had = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        self.wanted += 1
        self.lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lock.release()
        self.had += 1

    @property
    def is_wanted(self) -> bool:
        return self.wanted > self.had


class Worker:
    """A worker's loop and its queue, without anything that looks at the time."""

    def __init__(self, exchange: Exchange) -> None:
        self.taken: list[Parcel] = []
        self.wheel = Wheel()
        self.executors = SimpleNamespace(busy=False, is_inline=False, average=2 * SHORT)
        self._reactor = Reactor()
        self._turn = Turn(steers=True)
        self.queue = RequestQueue(
            self._reactor,
            cast("Executors", self.executors),
            exchange,
            exchange,
            timeout=math.inf,
            accept=self.taken.append,
            on_waiting=_ignore,
            on_failure=_ignore,
        )

    @property
    def arrival(self) -> float:
        """As a waiter: when the only request of its own has come."""
        return 2.0

    def serve(self) -> None:
        self.executors.busy = True

    def do(self, doing: str) -> None:
        """Become busy, in one of the ways there are."""
        if doing == "serve":
            self.queue.enter(cast("Waiter", self))
        else:
            self.serve()
            getattr(self.queue, doing)()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self.queue.watch()
        thread = threading.Thread(target=self._reactor.run, args=(self._turn, self.wheel))
        thread.start()
        try:
            yield
        finally:
            self._reactor.post(self._turn.end)
            thread.join(10)
            self._reactor.close()


def _ignore(_what: Any) -> None:
    """Take no notice."""


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with closing(Exchange.create(4)) as made:
        yield made


@pytest.mark.parametrize("others_doing", ["leave_to_others", "retire", "serve"])
def test_one_that_was_woken_and_is_busy_before_it_looks_wakes_the_next(
    exchange: Exchange, others_doing: str
) -> None:
    """The kernel wakes one for each parcel: the others slept, though free, until their next look
    at the time, 0.25 s later."""
    workers = [Worker(exchange), Worker(exchange)]
    ours, theirs = socket.socketpair()
    with ours, theirs, ExitStack() as stack:
        for worker in workers:
            stack.enter_context(worker.at_work())
            eventually(lambda: worker.wheel.had, what="a loop that waits")  # noqa: B023
        with workers[0].wheel.lock, workers[1].wheel.lock:
            assert exchange.reserve()
            assert exchange.put(Parcel(theirs, b"x", b"", 1.0, 0))
            woken = eventually(lambda: next((w for w in workers if w.wheel.is_wanted), None))
            woken.do(others_doing)
        (other,) = (worker for worker in workers if worker is not woken)
        eventually(lambda: other.taken, within=5, what="another worker that takes it")
        other.taken[0].client.close()
    assert not woken.taken
    assert exchange.oldest() is None
