"""What is to be done for the slots of the process table now, and when something will be. Pure.

Theory of operation
-------------------
Each slot is to have what rollout.py says, and a seat that is late gets what slots.py says. Beyond
that:

1. A slot where nothing serves is filled at once; that never waits for a turn.
2. A slot whose process does not die is not filled: it may still hold the GPU. One whose GPU is in
   quarantine is emptied and retired, until it is given back.
3. Whoever boots code that nobody wants any more is killed.
4. A mold forks one worker after another, so only a few are asked for at a time.
5. A slot that is not wanted any more is emptied, but not the last that serves: where those that
   are to stay wait for their next try, it stands in for them.
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
    """Decides for a table; `can_spawn` tells for which generation there is a mold."""

    def __init__(self, table: Table, can_spawn: Callable[[int], bool]) -> None:
        self._table = table
        self._rollout = table.rollout
        self._can_spawn = can_spawn

    def due(self, now: float) -> Iterator[tuple[Action, Seat]]:
        """Yield what is to be done now.

        Carry one out before you take the next: a spawn that fails may end it all.
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
        """Free what waits for a try that is not needed, or not of that code any more."""
        for slot in self._table.slots:
            self._retire(slot)
            for seat in slot.within(State.BACKOFF):
                if self._is_needless(slot) or not self._rollout.suits(slot, seat.generation):
                    seat.apply(Event.VACATE)

    def _retire(self, slot: Slot) -> None:
        """Show that a slot in quarantine is not to be filled, or that one is again."""
        if slot.quarantined:
            for seat in slot.within(State.EMPTY):
                seat.apply(Event.RETIRE)
        elif not self._table.stopping:
            for seat in slot.within(State.RETIRED):
                seat.apply(Event.VACATE)

    def _is_needless(self, slot: Slot) -> bool:
        """Whether nothing is to come beside what serves, or not before that is gone."""
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
        """Whether a free seat is, now or when its wait is over."""
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
        """Whether what serves is to go; before the new one comes only where it surely can."""
        if self._table.stopping or seat is not self._rollout.serving(slot):
            return True
        if not slot.wanted:
            return not self._stands_in(slot)
        goes_first = self._rollout.has_turn(slot) and not self._rollout.is_surge(slot)
        return goes_first and not slot.within(*COMING) and self._can_fill(seat)

    def _stands_in(self, slot: Slot) -> bool:
        """Whether a slot is one too many, and yet the last that serves."""
        table = self._table
        is_surplus = table.wanted <= slot.index and not slot.quarantined
        return is_surplus and table.ready == 1 and any(other.wanted for other in table.slots)

    @property
    def next_deadline(self) -> float | None:
        """The earliest moment at which something becomes due by itself.

        A slot that waits for its turn to be spawned waits for an event, not for a moment.
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
    """Return the free seat whose turn it is: one that waits already."""
    return next(iter(slot.within(State.BACKOFF) or slot.within(State.EMPTY)), None)
