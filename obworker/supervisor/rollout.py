"""Which code each slot is to serve, and which slot has its worker replaced next. Pure.

Theory of operation
-------------------
Every slot should have one process that serves *fresh* code. New code is at first a *candidate*: the
lowest slot, the canary, gets a worker of it. When that worker is ready the candidate becomes the
*current* generation: all slots are filled from it, and the other slots are replaced in turn. If no
worker of the candidate becomes ready, it is dropped, and nothing has changed. While no slot may be
filled it waits: code that was never tried is current only where no other code ever worked.

A worker with old code, or one that is to be recycled, is replaced when its slot has the *turn*.
Only one slot has it at a time, so there is never more than one extra process. With surge the new
worker is ready before the old one drains; with replace the old one goes first. `auto` is surge
until a worker had no room beside the old one. Then it is replace until other code serves, unless
that would leave no worker that serves. A slot keeps the turn until its worker is replaced, unless
the new one has to wait for its next try while the old one serves.

A slot with a process that cannot be killed is never filled, so it gets no turn and is no canary.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from obworker.supervisor.policy import BootPolicy, RestartPolicy
from obworker.supervisor.scoreboard import SERVING, State
from obworker.supervisor.slots import HAS_PROCESS, VACANT, Seat, Slot

MOVING = (HAS_PROCESS | {State.SPAWNING}) - {State.STUCK}


class Strategy(enum.Enum):
    """How a worker is replaced."""

    AUTO = "auto"
    SURGE = "surge"
    REPLACE = "replace"


class Outcome(enum.Enum):
    """What follows the end of a process."""

    EXPECTED = "expected"
    RETRY = "retry"
    GAVE_UP = "gave up"
    """No worker of the current code was ever ready: the start has failed."""
    DROPPED = "dropped"
    """No worker of the candidate was ever ready: the reload has failed."""
    HELD = "held"
    """The device failed too often: the slot stays empty until it is given back."""
    YIELDED = "yielded"
    """There is no room for two workers: from now on the old one goes first."""


class Rollout:
    """The generations of code and the turns of the slots; `slots` is the table's own list."""

    def __init__(
        self, slots: Sequence[Slot], strategy: Strategy, chance: Callable[[], float]
    ) -> None:
        self.current = 1
        self.candidate: int | None = None
        self.strategy = strategy
        self._slots = slots
        self._yields = self._yielded_before = False
        self._fresh = {1}
        self._boots = BootPolicy()
        self._trial = BootPolicy()
        self._chance = chance
        self._trial_restarts = RestartPolicy(chance)
        self._turn: Slot | None = None

    # generations

    def reload(self, generation: int) -> None:
        """Make new code the candidate, instead of any other; if none ever worked, the current."""
        self._yielded_before, self._yields = self._yields, False
        if self.is_proved:
            self.candidate = generation
            self._trial, self._trial_restarts = BootPolicy(), RestartPolicy(self._chance)
        else:
            self._boots = BootPolicy()
            self._commit(generation)

    @property
    def is_proved(self) -> bool:
        """Whether any worker was ever ready."""
        return self._boots.was_ever_ready

    def drop_candidate(self) -> None:
        """Drop the candidate, and recall whether two workers of the current code had room."""
        if self.candidate is not None:
            self.candidate, self._yields = None, self._yielded_before

    def continue_as(self, generation: int) -> None:
        """Fill slots from a new mold of the same code: the workers of the old one stay fresh."""
        self.current = generation
        self._fresh.add(generation)

    def _commit(self, generation: int) -> None:
        self.current, self._fresh, self.candidate = generation, {generation}, None

    def knows(self, generation: int) -> bool:
        """Whether workers of that generation are to serve, or to be tried."""
        return generation in self._fresh or generation == self.candidate

    def generation_for(self, slot: Slot) -> int:
        """Return the generation with which a slot is to be filled."""
        if self.candidate is not None and self.is_tried(slot):
            return self.candidate
        return self.current

    def is_tried(self, slot: Slot) -> bool:
        """Whether the candidate is to be tried in that slot."""
        return self.candidate is not None and slot is self._canary

    def suits(self, slot: Slot, generation: int) -> bool:
        """Whether that generation is to serve in that slot."""
        return generation == self.candidate if self.is_tried(slot) else generation in self._fresh

    def fits(self, slot: Slot, seat: Seat) -> bool:
        """Whether the process of a seat may stay: its code is right, and no recycling is due."""
        return self.suits(slot, seat.generation) and not seat.recycle

    def serving(self, slot: Slot) -> Seat | None:
        """Return the seat whose process serves and is to stay: one that fits, else the newest.

        A worker of a dropped candidate may become ready before it is killed.
        """
        return max(
            slot.within(*SERVING),
            key=lambda seat: (self.fits(slot, seat), seat.spawned_at),
            default=None,
        )

    @property
    def _canary(self) -> Slot | None:
        fillable = (slot for slot in self._slots if slot.wanted and not slot.within(State.STUCK))
        return next(fillable, None)

    # results of boots

    def ready(self, generation: int) -> bool:
        """Note that a worker is ready; return whether that makes its code the current one."""
        if self.knows(generation):
            self._boots.ready()
        if generation != self.candidate:
            return False
        self._commit(generation)
        return True

    def mold_died(self) -> bool:
        """Count it as a failed boot of the current code; return whether to give up."""
        return self._boots.failed(certain=False)

    def restarts(self, slot: Slot, generation: int) -> RestartPolicy:
        """Return what counts the ends of a worker: those of a candidate are not the slot's."""
        return self._trial_restarts if generation == self.candidate else slot.restarts

    def boot_failed(self, slot: Slot, generation: int, *, certain: bool, no_room: bool) -> Outcome:
        """Note that a worker ended before it was ready.

        `certain` says that another try would fail the same way, `no_room` that memory was short.
        """
        if no_room and self._may_yield(slot):
            self._yields = True
            return Outcome.YIELDED
        if generation == self.candidate:
            if self._trial.failed(certain=certain or no_room):
                self.drop_candidate()
                return Outcome.DROPPED
        elif self._boots.failed(certain=certain):
            return Outcome.GAVE_UP
        return Outcome.RETRY

    def _may_yield(self, slot: Slot) -> bool:
        is_auto = self.strategy is Strategy.AUTO and not self._yields
        return is_auto and slot.serving is not None and self._others_serve(slot)

    def _others_serve(self, slot: Slot) -> bool:
        return any(other.serving for other in self._slots if other is not slot)

    # turns

    def is_surge(self, slot: Slot) -> bool:
        """Whether the new worker is made before the old one goes."""
        if self._yields:
            return not self._others_serve(slot)
        return self.strategy is not Strategy.REPLACE

    def has_turn(self, slot: Slot) -> bool:
        """Whether the worker that serves in the slot is to be replaced now."""
        return slot is self._turn and self._wants_turn(slot)

    def pass_turn(self, can_spawn: Callable[[int], bool]) -> None:
        """Give the turn to the next slot, unless the one that has it is being replaced."""
        if self._turn is not None and self._is_replacing(self._turn, can_spawn):
            return
        waiting = [slot for slot in self._slots if self._wants_turn(slot)]
        self._turn = min(waiting, key=self._place_in_line, default=None)

    def _is_replacing(self, slot: Slot, can_spawn: Callable[[int], bool]) -> bool:
        """Whether there are two processes, or none that serves because the old one went first."""
        if len(slot.within(*MOVING)) > 1:
            return True
        is_gap = slot.wanted and slot.serving is None and not slot.within(State.STUCK)
        return is_gap and not self.is_surge(slot) and can_spawn(self.generation_for(slot))

    def _place_in_line(self, slot: Slot) -> tuple[float, bool, float]:
        """Return a sort key: failed slots come last; else the canary is first, then the oldest.

        In the order of their numbers, the first slots would be recycled again before the last.
        """
        retry_deadline = max(
            (seat.deadline or 0.0 for seat in slot.within(State.BACKOFF)), default=0.0
        )
        oldest = min(seat.spawned_at for seat in slot.within(*SERVING))
        return retry_deadline, not self.is_tried(slot), oldest

    @property
    def is_complete(self) -> bool:
        """Whether every process runs fresh code, and every wanted slot has one that serves."""
        return self.candidate is None and all(self._is_complete(slot) for slot in self._slots)

    def _is_complete(self, slot: Slot) -> bool:
        occupied = [seat for seat in slot.seats if seat.state not in VACANT]
        if slot.within(State.STUCK):
            return True
        is_fresh = all(seat.generation in self._fresh for seat in occupied)
        return is_fresh and (slot.serving is not None or not slot.wanted)

    def _wants_turn(self, slot: Slot) -> bool:
        if not slot.wanted or slot.within(State.STUCK):
            return False
        serving = self.serving(slot)
        return serving is not None and not self.fits(slot, serving)
