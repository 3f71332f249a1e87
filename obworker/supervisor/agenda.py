"""Decides what is to be done for the slots of the process table, and when. Pure.

Theory of operation
-------------------
rollout.py says what each slot should have, slots.py what happens to a seat that is late. Beyond
that:

1. A slot where nothing serves is filled at once, without waiting for its turn.
2. A slot is not filled while its process is being killed: that may still hold the GPU. A slot whose
   GPU is in quarantine is emptied and retired, until the GPU is given back.
3. A worker that boots code which is not wanted any more is killed.
4. A mold forks one worker after another, so only a few are requested at a time.
5. A slot that is not wanted any more is emptied, unless it is the last that serves: while the slots
   that are wanted wait for their next try, it stands in for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from obworker.supervisor.scoreboard import SERVING, State
from obworker.supervisor.slots import (
    BEING_KILLED,
    COMING,
    GOING,
    WHEN_LATE,
    Action,
    Event,
    Seat,
    Slot,
)
from obworker.supervisor.table import Table

BOOTS = (State.SPAWNING, State.BOOTING)
MOST_SPAWNING = 4


class Agenda:
    """Decides for a table; `can_spawn` says whether workers of a generation can be made now."""

    def __init__(self, table: Table, can_spawn: Callable[[int], bool]) -> None:
        self._table = table
        self._rollout = table.rollout
        self._can_spawn = can_spawn

    def due(self, now: float) -> Iterator[tuple[Action, Seat]]:
        """Yield what is to be done now.

        Carry out each action before taking the next: a spawn that fails may end everything.
        """
        self._free_needless_seats()
        self._rollout.pass_turn(self._can_spawn)
        for seat in self._table.seats:
            action = self._due(self._table.slots[seat.slot], seat, now)
            if action is not None:
                yield action, seat
        for seat in self._table.seats:
            if self._may_spawn(seat) and not self._waits(seat, now):
                yield Action.SPAWN, seat

    def _waits(self, seat: Seat, now: float) -> bool:
        return seat.state is State.BACKOFF and not seat.is_late(now)

    def _free_needless_seats(self) -> None:
        """Free the seats that wait for a try that is not needed, or would run the wrong code."""
        for slot in self._table.slots:
            self._retire(slot)
            for seat in slot.within(State.BACKOFF):
                if self._is_needless(slot) or not self._rollout.suits(slot, seat.generation):
                    seat.apply(Event.VACATE)

    def _retire(self, slot: Slot) -> None:
        """Retire the empty seats of a slot in quarantine; free them again after it."""
        if slot.quarantined:
            for seat in slot.within(State.EMPTY):
                seat.apply(Event.RETIRE)
        elif not self._table.stopping:
            for seat in slot.within(State.RETIRED):
                seat.apply(Event.VACATE)

    def _is_needless(self, slot: Slot) -> bool:
        """Whether the process that serves needs no successor, or has to leave before it comes."""
        serving = self._rollout.serving(slot)
        if serving is None:
            return False
        return self._rollout.fits(slot, serving) or not self._rollout.is_surge(slot)

    def _due(self, slot: Slot, seat: Seat, now: float) -> Action | None:
        if seat.state in SERVING and self._is_to_be_drained(slot, seat):
            return Action.DRAIN
        if seat.state in BOOTS and not self._table.is_awaited(seat):
            return Action.GIVE_UP_SPAWN if seat.state is State.SPAWNING else Action.KILL
        return WHEN_LATE.get(seat.state) if seat.is_late(now) else None

    def _is_to_be_filled(self, slot: Slot, seat: Seat) -> bool:
        """Whether a free seat is to be filled, now or when its wait is over."""
        if self._table.stopping or not slot.wanted or slot.within(*BEING_KILLED):
            return False
        if any(drains.lost_device for drains in slot.within(State.DRAINING)):
            return False
        if slot.other(seat).state in COMING or seat is not _first_to_fill(slot):
            return False
        is_surge, is_going = self._rollout.is_surge(slot), bool(slot.within(*GOING))
        if slot.serving is not None:
            return self._rollout.has_turn(slot) and is_surge and not is_going
        return is_surge or not is_going

    def _is_to_be_drained(self, slot: Slot, seat: Seat) -> bool:
        """Whether a process that serves is to go; before its successor only if that can come."""
        if self._table.stopping or seat is not self._rollout.serving(slot):
            return True
        if not slot.wanted:
            return not self._stands_in(slot)
        goes_first = self._rollout.has_turn(slot) and not self._rollout.is_surge(slot)
        return goes_first and not slot.within(*COMING) and self._can_fill(seat)

    def _stands_in(self, slot: Slot) -> bool:
        """Whether a surplus slot is the last that serves, while others are wanted."""
        table = self._table
        is_surplus = table.wanted <= slot.index and not slot.quarantined
        return is_surplus and table.ready == 1 and any(other.wanted for other in table.slots)

    @property
    def next_deadline(self) -> float | None:
        """The earliest time at which something becomes due.

        A seat that may not be filled yet waits for an event, so its deadline does not count.
        """
        deadlines = (
            seat.deadline
            for seat in self._table.seats
            if seat.deadline is not None
            and (seat.state is not State.BACKOFF or self._may_spawn(seat))
        )
        return min(deadlines, default=None)

    def _may_spawn(self, seat: Seat) -> bool:
        return (
            self._free_spawns > 0
            and self._is_to_be_filled(self._table.slots[seat.slot], seat)
            and self._can_fill(seat)
        )

    def _can_fill(self, seat: Seat) -> bool:
        return self._can_spawn(self._table.generation_for(seat))

    @property
    def _free_spawns(self) -> int:
        spawning = sum(seat.state is State.SPAWNING for seat in self._table.seats)
        return max(0, MOST_SPAWNING - spawning)


def _first_to_fill(slot: Slot) -> Seat | None:
    """Return the free seat to fill: the one that waits for a try, else an empty one."""
    return next(iter(slot.within(State.BACKOFF) or slot.within(State.EMPTY)), None)
