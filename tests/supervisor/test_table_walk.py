"""The process table under whatever may happen: long random walks, the same each time.

After every step it must hold that no fit worker was told to go without another in its place, that
all that was due was done at once and nothing becomes due before `next_deadline` (see `Play.act`),
and that something is due then. When nothing happens any more, everything comes to rest.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from table_play import Play

from obworker.supervisor.rollout import Outcome, Strategy
from obworker.supervisor.scoreboard import SERVING, State
from obworker.supervisor.slots import GOING, HAS_PROCESS, Action, Seat
from obworker.supervisor.table import End

STEPS = 150
MOST_SLOTS = 4
BOOTS = (State.SPAWNING, State.BOOTING)


class Walk(Play):
    """A play in which chance decides what happens, and molds come and go as the master has them."""

    def __init__(self, seed: int, strategy: Strategy) -> None:
        self.random = random.Random(seed)
        self.size = self.random.randint(1, MOST_SLOTS)
        super().__init__(self.size, strategy, chance=self.random.random)
        self.molds = set()
        self.newest = 1
        self.loading: int | None = 1
        self.events: list[Callable[[], None]] = [
            *([self.boots] * 6 + [self.ends] * 3 + [self.passes] * 3),
            *(self.fails, self.crashes, self.leaves, self.recycles, self.works, self.hangs),
            *(self.reloads, self.loads, self.loads, self.loses_mold, self.resizes),
            *(self.loses_device, self.loses_device, self.holds),
        ]

    # what is checked

    def carry_out(self, action: Action, seat: Seat) -> None:
        slot = self.table.slots[seat.slot]
        if action is Action.DRAIN and not self.table.stopping:
            (self.check_drain if slot.wanted else self.check_surplus)(seat)
        if action is Action.SPAWN:
            assert not slot.within(State.STUCK), "the GPU may still be held"
            assert not slot.quarantined
            assert not any(drains.lost_device for drains in slot.within(State.DRAINING))
        super().carry_out(action, seat)

    def check_drain(self, seat: Seat) -> None:
        rollout, slot = self.table.rollout, self.table.slots[seat.slot]
        other = slot.other(seat)
        if other.state in SERVING:
            assert rollout.fits(slot, other) or not rollout.fits(slot, seat)
        else:
            assert not rollout.is_surge(slot), "nothing serves in its place"
            assert not rollout.fits(slot, seat), "it is as it is meant to be"

    def check_surplus(self, seat: Seat) -> None:
        slot, others = self.table.slots[seat.slot], self.table.slots
        is_last = seat is slot.serving and self.table.ready == 1
        is_for_some = any(other.wanted for other in others)
        assert slot.quarantined or not (is_last and is_for_some), "nobody serves until others come"

    def follow(self, end: End) -> None:
        super().follow(end)
        if end.outcome is Outcome.DROPPED:
            self.keep_molds(self.table.rollout.current)

    def step(self) -> None:
        self.now += 0.001
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            self.random.choice(self.events)()
        self.act()
        self.check_that_no_slot_is_forgotten()
        left = self.left
        if left is not None and left > 1e-6:
            halfway = self.now + left / 2
            assert not list(self.agenda.due(halfway)), "it comes too late"
            assert list(self.agenda.due(self.now + left)), "woken for nothing"

    def check_that_no_slot_is_forgotten(self) -> None:
        due = {seat.slot for _, seat in self.agenda.due(math.inf)}
        for slot in self.table.slots:
            is_empty = len(slot.within(State.EMPTY, State.BACKOFF)) == len(slot.seats)
            if (
                is_empty
                and slot.wanted
                and self.can_spawn(self.table.generation_for(slot.seats[0]))
            ):
                assert slot.index in due, f"slot {slot.index} is never filled: {self.picture}"

    # what happens

    def pick(self, *states: State) -> Seat | None:
        seats = [seat for seat in self.table.seats if seat.state in states]
        return self.random.choice(seats) if seats else None

    def boots(self) -> None:
        seat = self.pick(*BOOTS)
        if seat is not None:
            self.go_on(seat)

    def go_on(self, seat: Seat) -> None:
        if seat.state is State.SPAWNING:
            self.table.spawned(seat, self.random.randint(2, 99999))
        elif self.table.became_ready(seat, self.now):
            self.keep_molds(seat.generation)

    def fails(self) -> None:
        seat = self.pick(*BOOTS)
        if seat is not None:
            how = {"certain": 0.1, "no_room": 0.3, "device_lost": 0.3}
            self.exited(seat, **{name: self.chance(share) for name, share in how.items()})

    def crashes(self) -> None:
        seat = self.pick(*HAS_PROCESS)
        if seat is not None:
            self.exited(seat)

    def ends(self) -> None:
        seat = self.pick(*GOING)
        if seat is not None and (seat.state is not State.STUCK or self.chance(0.1)):
            self.exited(seat)

    def leaves(self) -> None:
        seat = self.pick(*SERVING, State.DUMPING)
        if seat is not None:
            self.table.leaving(seat, self.now)

    def loses_device(self) -> None:
        seat = self.pick(*SERVING, State.DUMPING)
        if seat is not None:
            self.table.leaving(seat, self.now, device_lost=True)

    def holds(self) -> None:
        """Have some devices in quarantine and no others; a reload that none is left for fails."""
        held = {slot.index for slot in self.table.slots if self.chance(0.3)}
        self.table.quarantine(held.__contains__)
        if not self.table.can_serve:
            self.table.rollout.drop_candidate()
            self.keep_molds(self.table.rollout.current)

    def recycles(self) -> None:
        seat = self.pick(*SERVING)
        if seat is not None:
            seat.recycle = "has served its time"

    def works(self) -> None:
        seat = self.pick(*SERVING)
        if seat is not None and self.busy.pop(id(seat), None) is None:
            self.busy[id(seat)] = self.random.choice((0.0, self.now + 60))

    def hangs(self) -> None:
        seat = self.pick(*SERVING)
        if seat is not None:
            self.beats[id(seat)] = self.now

    def passes(self) -> None:
        left = self.left or 0.0
        self.now += self.random.choice((left, left, self.random.uniform(0, 40)))

    def reloads(self) -> None:
        if self.chance(0.6):
            return
        self.table.rollout.drop_candidate()
        self.keep_molds(self.table.rollout.current)
        self.newest += 1
        self.loading = self.newest

    def loads(self) -> None:
        """Let an import succeed: the start's, a reload's, or that of a lost mold's successor."""
        generation, self.loading = self.loading, None
        if generation is None:
            self.remakes_mold()
            return
        self.molds.add(generation)
        if generation > 1:
            self.table.rollout.reload(generation)
            self.keep_molds(self.table.rollout.current, generation)

    def loses_mold(self) -> None:
        if self.molds and self.chance(0.3):
            lost = self.random.choice(sorted(self.molds))
            self.keep_molds(*(self.molds - {lost}))
            if lost == self.table.rollout.candidate:
                self.table.rollout.drop_candidate()
                self.keep_molds(self.table.rollout.current)

    def remakes_mold(self) -> None:
        if not self.molds:
            self.newest += 1
            self.molds.add(self.newest)
            self.table.rollout.continue_as(self.newest)

    def keep_molds(self, *generations: int) -> None:
        """Lose all others, with what they were asked for."""
        for seat in self.table.seats:
            gone = seat.generation in self.molds and seat.generation not in generations
            if gone and seat.state is State.SPAWNING:
                self.table.unspawned(seat)
        self.molds &= set(generations)

    def resizes(self) -> None:
        if not self.table.stopping and self.chance(0.5):
            self.table.resize(self.random.choice((0, *range(MOST_SLOTS), MOST_SLOTS)))

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    # how it ends

    def come_to_rest(self) -> None:
        """Let everything go well until nothing is left to be done."""
        self.busy.clear()
        self.beats.clear()
        self.table.quarantine(lambda _: False)
        for _ in range(500):
            self.loads()
            for seat in self.table.seats:
                if seat.state in BOOTS:
                    self.go_on(seat)
                elif seat.state in GOING:
                    self.exited(seat)
            self.act()
            self.now += self.left or 0.0
            if self.is_at_rest:
                return
        raise AssertionError(f"never at rest: {self.picture}")

    @property
    def is_at_rest(self) -> bool:
        if self.table.stopping:
            return self.table.is_over
        return self.is_settled and self.table.rollout.is_complete


SEEDS = range(12)
every_strategy = pytest.mark.parametrize("strategy", Strategy, ids=lambda strategy: strategy.value)


@every_strategy
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_all_comes_to_rest(seed: int, strategy: Strategy) -> None:
    walk = Walk(seed, strategy)
    if seed % 4:
        walk.come_to_rest()  # from then on a boot that fails does not end it all
    for _ in range(STEPS):
        walk.step()
    if not walk.table.stopping:
        walk.table.resize(max(1, walk.table.wanted))
    walk.come_to_rest()
    assert walk.table.ready == (0 if walk.table.stopping else walk.table.wanted)


@every_strategy
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happened_a_stop_ends_it(seed: int, strategy: Strategy) -> None:
    walk = Walk(seed, strategy)
    for _ in range(walk.random.randrange(STEPS)):
        walk.step()
    walk.table.stop()
    walk.step()
    walk.come_to_rest()
    assert walk.table.is_over


@pytest.mark.parametrize("strategy", [Strategy.SURGE, Strategy.REPLACE])
@pytest.mark.parametrize("seed", SEEDS)
def test_while_nothing_fails_there_is_one_process_too_many_or_too_few_at_most(
    seed: int, strategy: Strategy
) -> None:
    walk = Walk(seed, strategy)
    walk.come_to_rest()
    walk.events = [walk.boots, walk.boots, walk.ends, walk.recycles, walk.reloads, walk.loads]
    size = walk.table.wanted
    for _ in range(STEPS):
        walk.step()
        running = sum(seat.state in HAS_PROCESS | {State.SPAWNING} for seat in walk.table.seats)
        if strategy is Strategy.SURGE:
            assert walk.table.ready == size
            assert running <= size + 1
        else:
            assert walk.table.ready >= size - 1
            assert running <= size
