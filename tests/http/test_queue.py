"""Where a request goes that has come, with everything around the queue played."""

from __future__ import annotations

import errno
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from obworker.errors import RequestError, ServiceUnavailable
from obworker.http import queue as queues
from obworker.http.exchange import Exchange, Parcel
from obworker.http.executors import SHORT, Executors
from obworker.http.queue import OwnPlaces, RequestQueue
from obworker.http.reactor import READ, Reactor

ENDING = ServiceUnavailable("the end")
FULL, TOO_LATE = str(queues.FULL), str(queues.TOO_LATE)
NOW = 1000.0


class Waiter:
    """A request; what becomes of it stands in `fate`."""

    def __init__(self, play: Play, arrival: float, *, is_movable: bool = True) -> None:
        self.arrival = arrival
        self.fate = ""
        self.is_movable = is_movable
        self._play = play

    def serve(self) -> None:
        self.fate = "served"
        self._play.unfinished += 1

    def refuse(self, error: RequestError) -> None:
        self.fate = str(error)

    def move(self, exchange: Exchange) -> bool:
        if self.is_movable and self._play.has_room:
            self.fate = "moved"
            self._play.parcels.append(self)
            self._play.see_that_none_is_lost()
            return True
        return False


@dataclass
class Play:
    """One worker, as its queue sees it, and an exchange in which others put what they like."""

    threads: int = 1
    places: int = 3
    has_exchange: bool = True
    timeout: float = 10.0
    average: float = 2 * SHORT
    now: float = NOW
    is_inline: bool = False
    has_room: bool = True
    unfinished: int = 0
    parcels: deque[Waiter] = field(default_factory=deque)
    posted: list[Callable[[], object]] = field(default_factory=list)
    watches: bool = False
    held: int = 0
    nudges: int = 0
    failures: list[str] = field(default_factory=list)
    has_descriptors: bool = True

    def __post_init__(self) -> None:
        self.free = Shared(self)
        exchange = self if self.has_exchange else None
        self.queue = RequestQueue(
            cast("Reactor", self),
            cast("Executors", self),
            cast("Exchange | None", exchange),
            self.free,
            timeout=self.timeout,
            accept=self._accept,
            on_waiting=partial_set(self),
            on_failure=self.failures.append,
        )

    # as a reactor

    def post(self, call: Callable[[], object]) -> None:
        self.posted.append(call)

    def call_safely(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except RuntimeError as bug:
            self.failures.append(str(bug))

    def watch(self, _descriptor: int, _events: int, on_event: Callable[[int], None]) -> None:
        assert not self.watches
        self.watches = True
        self.hear = on_event

    def forget(self, _descriptor: int) -> None:
        assert self.watches
        self.watches = False

    # as executors

    @property
    def busy(self) -> bool:
        return self.unfinished >= self.threads

    def finish(self) -> None:
        """End a call."""
        self.unfinished -= 1
        if not self.busy:
            self.queue.serve_next()

    # as an exchange

    def fileno(self) -> int:
        return 0

    def take(self) -> Parcel | None:
        if not self.has_descriptors:
            raise OSError(errno.EMFILE, "no more files")
        if not self.parcels:
            return None
        waiter = self.parcels.popleft()
        self.see_that_none_is_lost()
        return cast("Parcel", SimpleNamespace(head=b"x", client=waiter))

    def oldest(self) -> float | None:
        return self.parcels[0].arrival if self.parcels else None

    def nudge(self) -> None:
        self.nudges += 1

    def _accept(self, parcel: Parcel) -> None:
        self.queue.vacate(parcel, 0)
        self.queue.enter(cast("Waiter", parcel.client))

    # as clients

    def ask(self, **options: Any) -> Waiter:
        """Let a request come, and return it."""
        waiter = Waiter(self, self.now, **options)
        self.queue.enter(waiter)
        return waiter

    def ask_elsewhere(self) -> Waiter:
        """Let one come to another worker that is busy."""
        assert OwnPlaces.reserve(self.free)
        waiter = Waiter(self, self.now)
        assert waiter.move(cast("Exchange", self))
        return waiter

    @property
    def places_left(self) -> int:
        return self.free._free

    def see_that_none_is_lost(self) -> None:
        """See that the worker can be killed now: what waits nowhere else it has told of."""
        assert self.places - self.places_left - len(self.parcels) <= self.held


class Shared(OwnPlaces):
    """Places that outlive the worker."""

    def __init__(self, play: Play) -> None:
        super().__init__(play.places)
        self._play = play

    def reserve(self) -> bool:
        is_reserved = super().reserve()
        self._play.see_that_none_is_lost()
        return is_reserved

    def release(self) -> None:
        super().release()
        self._play.see_that_none_is_lost()


def partial_set(play: Play) -> Callable[[int], None]:
    def held(count: int) -> None:
        play.held = count

    return held


def _fail(why: str) -> None:
    raise RuntimeError(why)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obworker.http.queue.time.monotonic", lambda: NOW)


def fates(waiters: list[Waiter]) -> list[str]:
    return [waiter.fate for waiter in waiters]


class TestAWorkerAlone:
    def test_serves_at_once_what_finds_an_executor_free(self) -> None:
        play = Play(threads=2, has_exchange=False)
        assert fates([play.ask() for _ in range(3)]) == ["served", "served", ""]
        assert (play.places_left, play.held) == (2, 1)

    def test_serves_what_waits_in_order(self) -> None:
        play = Play(has_exchange=False)
        waiters = [play.ask() for _ in range(4)]
        for served in range(1, 5):
            assert fates(waiters) == ["served"] * served + [""] * (4 - served)
            play.finish()
        assert (play.places_left, play.held) == (3, 0)

    def test_refuses_what_finds_no_place(self) -> None:
        play = Play(places=1, has_exchange=False)
        assert fates([play.ask() for _ in range(3)]) == ["served", "", FULL]

    def test_lets_nobody_wait_without_places(self) -> None:
        play = Play(places=0, has_exchange=False)
        assert fates([play.ask(), play.ask()]) == ["served", FULL]

    def test_refuses_what_has_waited_too_long(self) -> None:
        play = Play(has_exchange=False)
        _, early = play.ask(), play.ask()
        play.now = NOW + 5
        late = play.ask()
        play.queue.check(NOW + 9)
        assert fates([early, late]) == ["", ""]
        play.queue.check(NOW + 10)
        assert fates([early, late]) == [TOO_LATE, ""]
        assert (play.places_left, play.held) == (2, 1)

    def test_waits_for_ever_where_there_is_no_timeout(self) -> None:
        play = Play(has_exchange=False, timeout=0)
        play.ask()
        waiter = play.ask()
        play.queue.check(NOW + 1e9)
        assert waiter.fate == ""

    def test_forgets_what_has_left(self) -> None:
        play = Play(has_exchange=False)
        _, gone, stays = play.ask(), play.ask(), play.ask()
        play.queue.leave(gone)
        assert (play.places_left, play.held) == (2, 1)
        play.finish()
        assert fates([gone, stays]) == ["", "served"]

    def test_refuses_all_in_the_end_and_whatever_comes(self) -> None:
        play = Play(has_exchange=False)
        play.ask()
        waiting = [play.ask(), play.ask()]
        play.queue.refuse_all(ENDING)
        assert fates([*waiting, play.ask()]) == ["the end"] * 3
        play.finish()
        assert fates([play.ask()]) == ["the end"]
        assert (play.places_left, play.held) == (3, 0)
        assert play.queue.is_empty


class TestAmongOthers:
    def test_what_has_to_wait_moves(self) -> None:
        play = Play()
        assert fates([play.ask(), play.ask()]) == ["served", "moved"]
        assert (play.places_left, play.held) == (2, 0)

    @pytest.mark.parametrize(
        "options", [{"has_room": False}, {"average": SHORT / 2}], ids=["no room", "short calls"]
    )
    def test_it_stays_where_that_is_better(self, options: dict[str, Any]) -> None:
        play = Play(**options)
        play.ask()
        assert play.ask().fate == ""
        assert play.held == 1

    @pytest.mark.parametrize(
        ("options", "asked", "moves"),
        [
            ({}, 1, True),
            ({}, 0, False),
            ({"average": SHORT / 2}, 1, False),
            ({"is_inline": True}, 1, False),
            ({"has_exchange": False}, 1, False),
        ],
        ids=["busy", "free", "short calls", "inline", "alone"],
    )
    def test_whether_one_would_move_is_known_before_it_comes(
        self, options: dict[str, Any], asked: int, moves: bool
    ) -> None:
        play = Play(**options)
        for _ in range(asked):
            play.ask()
        assert play.queue.would_move is moves

    def test_what_cannot_move_stays(self) -> None:
        play = Play()
        play.ask()
        assert play.ask(is_movable=False).fate == ""

    def test_nothing_moves_where_nobody_else_is(self) -> None:
        play = Play()
        play.queue.has_peers = False
        play.ask()
        assert play.ask().fate == ""

    def test_what_waits_here_comes_before_what_waits_there(self) -> None:
        play = Play()
        play.ask()
        there, here = play.ask_elsewhere(), play.ask(is_movable=False)
        play.finish()
        assert fates([here, there]) == ["served", "moved"]
        play.finish()
        assert there.fate == "served"
        assert play.places_left == 3

    def test_what_waits_there_comes_first_where_it_is_older(self) -> None:
        """It waited for as long as there was always somebody here."""
        play = Play()
        play.ask()
        there = play.ask_elsewhere()
        play.now += 1
        here = play.ask(is_movable=False)
        play.finish()
        assert fates([there, here]) == ["served", ""]
        play.finish()
        assert here.fate == "served"
        assert play.places_left == 3

    def test_what_waits_here_is_begun_where_that_cannot_be_taken(self) -> None:
        play = Play()
        play.ask()
        play.ask_elsewhere()
        play.now += 1
        here = play.ask(is_movable=False)
        play.has_descriptors = False
        play.finish()
        assert here.fate == "served"

    def test_the_exchange_is_watched_only_while_an_executor_is_free(self) -> None:
        play = Play()
        play.queue.watch()
        seen = [play.watches]
        for step in (play.ask, play.finish):
            step()
            seen.append(play.watches)
        assert seen == [True, False, True]

    def test_without_descriptors_it_is_left_and_watched_again_when_there_are_some(self) -> None:
        """Who was idle took no more than one with each look at the time, for ever after."""
        play = Play(has_descriptors=False)
        play.ask_elsewhere()
        play.queue.watch()
        play.queue._parcel_waits(0)
        assert (play.watches, play.failures) == (False, ["no more files"])
        play.queue.check(NOW)
        assert (play.watches, len(play.failures)) == (False, 2)
        play.has_descriptors = True
        play.parcels.clear()
        play.queue.check(NOW)
        assert play.watches

    def test_one_that_cannot_be_taken_in_keeps_nobody_from_the_next(self) -> None:
        """A loop forgets what raises: the exchange was watched no more."""
        play = Play()
        broken = play.ask_elsewhere()
        broken.serve = partial(_fail, "a bug")  # type: ignore[method-assign]
        sound = play.ask_elsewhere()
        play.queue.watch()
        play.queue._parcel_waits(0)
        play.queue._parcel_waits(0)
        assert (play.failures, sound.fate) == (["a bug"], "served")
        assert play.places_left == 3

    def test_what_is_late_is_refused_by_one_that_is_busy(self) -> None:
        play = Play()
        play.ask()
        late = play.ask_elsewhere()
        play.now = NOW + 9
        early = play.ask_elsewhere()
        late.arrival = NOW - 10
        play.queue.check(NOW)
        assert fates([late, early]) == [TOO_LATE, "moved"]
        assert play.places_left == 2

    def test_what_waits_for_a_long_call_moves_although_most_are_short(self) -> None:
        """It waited for the end of the call, however many workers were idle."""
        play = Play(average=SHORT / 2)
        play.ask()
        waiter, bound = play.ask(), play.ask(is_movable=False)
        play.queue.check(NOW + 0.01)
        assert (waiter.fate, play.held) == ("", 2)
        play.queue.check(NOW + 1)
        assert fates([waiter, bound]) == ["moved", ""]
        assert (play.places_left, play.held) == (1, 1)

    def test_one_that_retires_takes_no_more_and_serves_what_it_has(self) -> None:
        play = Play()
        play.queue.watch()
        play.ask()
        here, there = play.ask(is_movable=False), play.ask_elsewhere()
        play.queue.retire()
        play.finish()
        play.finish()
        play.queue.check(NOW + 100)
        assert fates([here, there]) == ["served", "moved"]
        assert not play.watches

    def test_one_that_is_the_last_takes_again_what_nobody_else_will(self) -> None:
        play = Play()
        play.queue.watch()
        there = play.ask_elsewhere()
        play.queue.retire()
        play.queue.check(NOW)
        assert (there.fate, play.watches) == ("moved", False)
        play.queue.rejoin()
        assert play.watches
        play.hear(READ)
        assert there.fate == "served"

    def test_one_that_is_busy_then_waits_until_it_is_free(self) -> None:
        play = Play()
        play.ask()
        there = play.ask_elsewhere()
        play.queue.retire()
        play.queue.rejoin()
        assert (there.fate, play.watches) == ("moved", False)
        play.finish()
        assert there.fate == "served"

    def test_what_the_exchange_tells_of_is_taken_where_an_executor_is_free(self) -> None:
        play = Play()
        play.queue.watch()
        play.unfinished = 1
        there = play.ask_elsewhere()
        play.hear(READ)
        assert (there.fate, play.watches) == ("moved", False)
        play.finish()
        assert (there.fate, play.places_left) == ("served", 3)

    def test_one_that_is_busy_looks_for_what_is_late_only_while_it_can_take_it(self) -> None:
        play = Play(has_descriptors=False)
        play.ask()
        play.ask_elsewhere().arrival = NOW - 10
        play.queue.check(NOW)
        assert len(play.parcels) == 1

    def test_at_the_end_what_waits_moves_or_is_refused(self) -> None:
        play = Play(average=SHORT / 2)
        play.ask()
        waiting = [play.ask(), play.ask(is_movable=False)]
        play.queue.refuse_all(ENDING)
        assert fates(waiting) == ["moved", "the end"]
        assert (play.places_left, play.held) == (2, 0)

    def test_what_comes_to_one_that_has_retired_and_begins_nothing_moves(self) -> None:
        play = Play(places=2)
        play.queue.retire()
        play.queue.refuse_all(ENDING)
        assert fates([play.ask(is_movable=False), play.ask()]) == ["the end", "moved"]
        play.ask()
        assert play.ask().fate == "the end"

    def test_at_the_end_of_all_what_is_in_the_exchange_is_refused(self) -> None:
        """All were in predict, and it was lost with the last of them."""
        play = Play()
        play.ask()
        others = [play.ask_elsewhere(), play.ask_elsewhere()]
        play.queue.refuse_all(ENDING)
        play.queue.check(NOW)
        assert fates(others) == ["the end"] * 2
        assert play.places_left == 3


class Walk:
    """Whatever can happen to a queue, in an order of chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.play = Play(threads=self.chance.choice((1, 1, 3)), places=8, timeout=3.0)
        self.asked: list[Waiter] = []
        self._clock = itertools.count()

    def step(self) -> None:
        steps = (self._ask, self._ask, self._ask, self._ask_elsewhere, self._leave)
        self.chance.choice((*steps, self._finish, self._finish, self._check, self._change))()

    @property
    def here(self) -> list[Waiter]:
        """What waits in this worker."""
        return [waiter for waiter in self.asked if not waiter.fate]

    def _ask(self) -> None:
        self.asked.append(self.play.ask(is_movable=self.chance.random() < 0.6))

    def _ask_elsewhere(self) -> None:
        if self.play.places_left and self.play.has_room:
            self.asked.append(self.play.ask_elsewhere())

    def _leave(self) -> None:
        if self.here:
            gone = self.chance.choice(self.here)
            self.play.queue.leave(gone)
            gone.fate = "gone"

    def _finish(self) -> None:
        if self.play.unfinished:
            self.play.finish()

    def _check(self) -> None:
        self.play.queue.check(NOW + next(self._clock) / 20)

    def _change(self) -> None:
        self.play.has_room = self.chance.random() < 0.8
        self.play.average = self.chance.choice((SHORT / 2, 2 * SHORT))
        self.play.queue.has_peers = self.chance.random() < 0.8


@pytest.mark.parametrize("seed", range(20))
def test_every_place_comes_back_whatever_happens(seed: int) -> None:
    """At each step the places that are gone are those of what waits, and none are in the end."""
    walk = Walk(seed)
    play = walk.play
    for _ in range(400):
        walk.step()
        assert play.held == len(walk.here)
        assert play.places - play.places_left == len(walk.here) + len(play.parcels)
    play.queue.refuse_all(ENDING)
    play.queue.check(math.inf)
    assert play.queue.is_empty
    assert (play.places_left, play.held) == (play.places, 0)
    assert all(waiter.fate not in ("", "moved") for waiter in walk.asked)
