"""Which code each slot is to serve, and whose turn it is to be replaced. Pure.

Theory of operation
-------------------
Every slot is to have one process that serves *fresh* code. New code is first only a *candidate*:
the lowest slot, the canary, gets a worker of it. When that one is ready the candidate becomes the
*current* generation, from which all slots are filled from then on, and the slots that are left
take their turns. When it never becomes ready the candidate is dropped, and nothing has changed.

A worker that is to be replaced, because its code is old or because it is to be recycled, takes its
*turn*, one slot at a time, so that there is never more than one process too many. By surge the new
worker is ready before the old one drains; by replacement the old one goes first. `auto` is surge
until a worker had no room beside the old one: then it is replacement until other code serves,
unless that would leave nobody to serve. A slot that has begun its turn ends it, unless its new
worker has to wait for its next try and the old one serves on.

A slot with a process that cannot be killed is never filled, so it takes no turn and is no canary.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from obworker.supervisor.policy import BootPolicy
from obworker.supervisor.scoreboard import SERVING, State
from obworker.supervisor.slots import HAS_PROCESS, VACANT, Seat, Slot

MOVING = (HAS_PROCESS | {State.SPAWNING}) - {State.STUCK}


class Strategy(enum.Enum):
    """How a worker is replaced."""

    AUTO = "auto"
    SURGE = "surge"
    REPLACE = "replace"


class Outcome(enum.Enum):
    """What the end of a process leads to."""

    EXPECTED = "expected"
    RETRY = "retry"
    GAVE_UP = "gave up"
    """Nothing of the current code was ever ready: the start has failed."""
    DROPPED = "dropped"
    """Nothing of the candidate was ever ready: the reload has failed."""
    HELD = "held"
    """The device failed too often: nothing follows until it is given back."""
    YIELDED = "yielded"
    """There is no room for two: from now on the old worker goes first."""


class Rollout:
    """The generations of code and the turns of the slots; `slots` is the table's own list."""

    def __init__(self, slots: Sequence[Slot], strategy: Strategy) -> None:
        self.current = 1
        self.candidate: int | None = None
        self.strategy = strategy
        self._slots = slots
        self._yields = self._yielded_before = False
        self._fresh = {1}
        self._boots = BootPolicy()
        self._trial = BootPolicy()
        self._turn: Slot | None = None

    # generations

    def reload(self, generation: int) -> None:
        """Try new code; the newest wins. Where nothing was ever ready it is just the code now.

        So it is where no worker is wanted. Where all devices are held, those of the new code may be
        others.
        """
        self._yielded_before, self._yields, self._trial = self._yields, False, BootPolicy()
        can_be_tried = any(slot.quarantined for slot in self._slots) or self._canary is not None
        if self._boots.was_ever_ready and can_be_tried:
            self.candidate = generation
        else:
            self._commit(generation)

    def drop_candidate(self) -> None:
        """Stay with the code there is, and with what is known of the room it takes."""
        if self.candidate is not None:
            self.candidate, self._yields = None, self._yielded_before

    def continue_as(self, generation: int) -> None:
        """Fill slots from another mold with the same code: the workers there are stay fresh."""
        self.current = generation
        self._fresh.add(generation)

    def _commit(self, generation: int) -> None:
        self.current, self._fresh, self.candidate = generation, {generation}, None
        self._boots = self._trial

    def knows(self, generation: int) -> bool:
        """Whether a worker of that code may become one that serves."""
        return generation in self._fresh or generation == self.candidate

    def generation_for(self, slot: Slot) -> int:
        """Return the code that a slot is to be filled with."""
        if self.candidate is not None and self.is_tried(slot):
            return self.candidate
        return self.current

    def is_tried(self, slot: Slot) -> bool:
        """Whether the candidate is to prove itself there."""
        return self.candidate is not None and slot is self._canary

    def suits(self, slot: Slot, generation: int) -> bool:
        """Whether that is code to be served there."""
        return generation == self.candidate if self.is_tried(slot) else generation in self._fresh

    def fits(self, slot: Slot, seat: Seat) -> bool:
        """Whether what serves there is what is wanted there."""
        return self.suits(slot, seat.generation) and not seat.recycle

    def serving(self, slot: Slot) -> Seat | None:
        """Return the process that serves and is to stay: one that fits, or else the newest.

        Code that was given up may become ready before it is killed.
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

    # what became of a boot

    def ready(self, generation: int) -> bool:
        """Note that a worker is ready; return whether that makes its code the current one."""
        if generation == self.candidate:
            self._commit(generation)
            self._boots.ready()
            return True
        if generation in self._fresh:
            self._boots.ready()
        return False

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
        """Whether the new worker comes before the old one goes."""
        if self._yields:
            return not self._others_serve(slot)
        return self.strategy is not Strategy.REPLACE

    def has_turn(self, slot: Slot) -> bool:
        """Whether what serves in the slot is to be replaced now."""
        return slot is self._turn and self._wants_turn(slot)

    def pass_turn(self, can_spawn: Callable[[int], bool]) -> None:
        """Give the turn to another slot, unless the one that has it is in the middle of it."""
        if self._turn is not None and self._is_replacing(self._turn, can_spawn):
            return
        waiting = [slot for slot in self._slots if self._wants_turn(slot)]
        self._turn = min(waiting, key=self._place_in_line, default=None)

    def _is_replacing(self, slot: Slot, can_spawn: Callable[[int], bool]) -> bool:
        """Whether there is a process too many, or one too few because the old one went first."""
        if len(slot.within(*MOVING)) > 1:
            return True
        is_gap = slot.wanted and slot.serving is None and not slot.within(State.STUCK)
        return is_gap and not self.is_surge(slot) and can_spawn(self.generation_for(slot))

    def _place_in_line(self, slot: Slot) -> tuple[float, bool, float]:
        """Return what orders the slots: who failed comes last, the canary first, then the oldest.

        Were it only the order of slots, the first ones would be recycled again before the last.
        """
        retry_deadline = max(
            (seat.deadline or 0.0 for seat in slot.within(State.BACKOFF)), default=0.0
        )
        oldest = min(seat.spawned_at for seat in slot.within(*SERVING))
        return retry_deadline, not self.is_tried(slot), oldest

    @property
    def is_complete(self) -> bool:
        """Whether every process runs fresh code, and every slot has one that serves."""
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
