"""The process table: what has happened to each seat, and what an end leads to. Pure.

Theory of operation
-------------------
The master tells the table what happened, and when, and asks agenda.py what is to be done; it
carries that out and decides nothing about a slot itself. What can happen to a seat is in slots.py,
which code a slot is to serve in rollout.py; this is about how it ends:

1. An end before ready is a failed boot whatever the exit code: a worker that calls sys.exit(0)
   while it boots has not done its work. A generation of which nothing was ever ready is given up
   after five; from then on a slot is tried for ever, with a growing wait.
2. A worker that leaves on its own account is replaced when it says so, not when it is gone.
3. An end that was wanted, or of code that nobody wants any more, is no news.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from obworker.supervisor.policy import RestartPolicy
from obworker.supervisor.rollout import Outcome, Rollout, Strategy
from obworker.supervisor.scoreboard import SERVING, State
from obworker.supervisor.slots import (
    COMING,
    Event,
    Seat,
    Slot,
    Timeouts,
)

FREE = (State.EMPTY, State.BACKOFF)
UNREACHABLE_TIMEOUT = 0.5


class End(NamedTuple):
    """What the end of a process leads to, and the wait before the next try in seconds."""

    outcome: Outcome
    wait: float = 0.0


class Table:
    """All slots; `chance` gives numbers from 0 to 1 for the jitter of backoffs."""

    def __init__(
        self,
        size: int,
        timeouts: Timeouts,
        chance: Callable[[], float],
        strategy: Strategy = Strategy.SURGE,
    ) -> None:
        self.timeouts = timeouts
        self.wanted = size
        self.slots: list[Slot] = []
        self.rollout = Rollout(self.slots, strategy)
        self.stopping = False
        self._chance = chance
        self.resize(size)

    # size

    def resize(self, size: int) -> None:
        """Want so many workers: the slots with the lowest numbers."""
        self.wanted = size
        while len(self.slots) < size:
            self.slots.append(Slot(len(self.slots), RestartPolicy(self._chance)))
        for slot in self.slots:
            self._want(slot)

    def quarantine(self, is_held: Callable[[int], bool]) -> None:
        """Fill no slot whose device is in quarantine, and again those that were not."""
        for slot in self.slots:
            if slot.quarantined is not is_held(slot.index):
                slot.quarantined = not slot.quarantined
                self._want(slot)

    def _want(self, slot: Slot) -> None:
        slot.wanted = slot.index < self.wanted and not slot.quarantined
        if not slot.wanted:
            for seat in slot.within(State.BACKOFF):
                seat.apply(Event.VACATE)

    @property
    def can_serve(self) -> bool:
        """Whether there is a slot, of those that are wanted, that may be filled."""
        return any(slot.wanted for slot in self.slots) or not self.wanted

    def stop(self) -> None:
        """Fill no slot any more; the agenda says how to empty those that are filled."""
        self.stopping = True
        for seat in self.seats:
            if seat.state in FREE:
                seat.apply(Event.RETIRE)

    @property
    def is_over(self) -> bool:
        """Whether no seat holds a process or will, but for those that cannot be killed."""
        return all(seat.state in (State.RETIRED, State.STUCK) for seat in self.seats)

    @property
    def seats(self) -> Iterator[Seat]:
        """All seats, slot by slot."""
        return (seat for slot in self.slots for seat in slot.seats)

    @property
    def ready(self) -> int:
        """How many slots have a worker that serves."""
        return sum(slot.serving is not None for slot in self.slots)

    def of_pid(self, pid: int) -> Seat | None:
        """Return the seat whose process `pid` is."""
        return next((seat for seat in self.seats if seat.pid == pid), None)

    # what happens to a process

    def spawn(self, seat: Seat, now: float) -> None:
        """Note that a process was asked for."""
        seat.apply(Event.SPAWN, deadline=now + self.timeouts.spawn)
        seat.begin_life(self.generation_for(seat), now)

    def generation_for(self, seat: Seat) -> int:
        """Return the code that a seat is to be filled with."""
        return self.rollout.generation_for(self.slots[seat.slot])

    def spawned(self, seat: Seat, pid: int, *, loads: bool = False) -> None:
        """Note that the process exists; its boot has been timed since the spawn.

        `loads` says that it imports the code first.
        """
        boot = self.timeouts.boot + (self.timeouts.load if loads else 0.0)
        seat.apply(Event.SPAWNED, deadline=seat.spawned_at + boot)
        seat.pid = pid

    def unreachable(self, seat: Seat, now: float) -> None:
        """Note that a process that was asked for has no way to tell us of itself.

        It is soon due to be given up, unless the mold turns out to be gone.
        """
        seat.deadline = now + UNREACHABLE_TIMEOUT

    def became_ready(self, seat: Seat, now: float) -> bool:
        """Note that the worker serves; return whether that made the candidate the current code."""
        seat.apply(Event.READY, deadline=now + self.timeouts.frozen)
        seat.ready_at = seat.idle_since = now
        return self.rollout.ready(seat.generation)

    def observe(
        self, seat: Seat, now: float, *, in_flight: int, deadline: float, beat: float
    ) -> None:
        """Note what a worker's row of the scoreboard says; times are 0 where there is none.

        A worker with a request in predict is judged by that request alone: predict may hold the
        interpreter's lock and the loop with it. One without is judged by its loop, which has all
        its time again from the moment that predict let go of it.
        """
        is_busy = in_flight > 0
        if is_busy != (seat.state is State.BUSY):
            seat.apply(Event.BEGIN if is_busy else Event.FINISH)
            seat.idle_since = now
        if is_busy:
            seat.deadline = deadline + self.timeouts.answer if deadline else None
        else:
            seat.deadline = max(beat, seat.idle_since) + self.timeouts.frozen

    def drain(self, seat: Seat, now: float) -> None:
        """Note that the worker was told to finish what it has."""
        seat.apply(Event.DRAIN, deadline=now + self.timeouts.graceful)
        seat.expected = True

    def leaving(self, seat: Seat, now: float, *, device_lost: bool = False) -> float | None:
        """Note that a worker drains on its own account; return the wait before the next one.

        None where the next one comes when this one is gone: where its GPU is lost, for one.
        """
        self.drain(seat, now)
        seat.lost_device = device_lost
        slot = self.slots[seat.slot]
        other = slot.other(seat)
        if seat.ready_at is None:  # its boot has failed, however it ends
            seat.expected = False
            return None
        if slot.within(*COMING, *SERVING) or not slot.wanted or self.stopping:
            return 0.0
        if device_lost or other.state is not State.EMPTY or not self.rollout.is_surge(slot):
            seat.expected = False
            return None
        wait = self._count_end(slot, seat, now)
        other.apply(Event.WAIT, deadline=now + wait)
        other.generation = seat.generation
        return wait

    def dump(self, seat: Seat, now: float) -> None:
        """Note that the worker was told to show its stacks, as its last act."""
        seat.apply(Event.DUMP, deadline=now + self.timeouts.dump)

    def abort(self, seat: Seat, now: float) -> None:
        """Note that the worker was sent SIGABRT."""
        seat.apply(Event.ABORT, deadline=now + self.timeouts.abort)

    def kill(self, seat: Seat, now: float) -> None:
        """Note that the worker was sent SIGKILL; nothing is left but to wait for its end."""
        if seat.state is State.BOOTING and not self.is_awaited(seat):
            seat.expected = True
        seat.apply(Event.KILL, deadline=now + self.timeouts.kill)

    def stick(self, seat: Seat) -> End:
        """Note that SIGKILL did not end the worker: it sleeps in the kernel.

        Code that does so when it is tried is not tried again: it would cost a slot each time.
        """
        seat.apply(Event.STICK)
        if seat.generation != self.rollout.candidate:
            return End(Outcome.EXPECTED)
        self.rollout.drop_candidate()
        return End(Outcome.DROPPED)

    def exited(
        self,
        seat: Seat,
        now: float,
        *,
        certain: bool = False,
        no_room: bool = False,
        device_lost: bool = False,
    ) -> End:
        """Note that the process is gone; for `certain` and `no_room` see Rollout.boot_failed.

        Code is not judged by a boot that failed because the device did.
        """
        slot = self.slots[seat.slot]
        seat.apply(Event.EXIT)
        seat.pid = None
        if self.stopping:
            seat.apply(Event.RETIRE)
            return End(Outcome.EXPECTED)
        if device_lost and slot.quarantined and not seat.expected:
            seat.apply(Event.VACATE)
            return End(Outcome.HELD)
        is_known = self.rollout.knows(seat.generation)
        if seat.expected or not slot.wanted or not (is_known or seat.ready_at):
            seat.apply(Event.VACATE)
            return End(Outcome.EXPECTED)
        if seat.ready_at is None and not device_lost:
            outcome = self.rollout.boot_failed(
                slot, seat.generation, certain=certain, no_room=no_room
            )
            if outcome is not Outcome.RETRY:
                seat.apply(Event.VACATE)
                return End(outcome)
        return self._try_again(slot, seat, now)

    def _try_again(self, slot: Slot, seat: Seat, now: float) -> End:
        """Let the slot wait before its next worker, unless one is on its way already."""
        wait = self._count_end(slot, seat, now)
        if slot.within(*COMING):
            seat.apply(Event.VACATE)
        else:
            seat.apply(Event.WAIT, deadline=now + wait)
        return End(Outcome.RETRY, wait)

    def _count_end(self, slot: Slot, seat: Seat, now: float) -> float:
        """Return the wait before the slot's next worker; other code does not pay for this one's."""
        if not self.rollout.suits(slot, seat.generation):
            return 0.0
        return slot.restarts.ended(now, ready_at=seat.ready_at)

    def unspawned(self, seat: Seat) -> None:
        """Note that the mold is gone before it made the process: the slot is not to blame."""
        seat.apply(Event.EXIT)
        seat.apply(Event.RETIRE if self.stopping else Event.VACATE)

    def is_awaited(self, seat: Seat) -> bool:
        """Whether somebody wants what boots there."""
        wanted = self.slots[seat.slot].wanted and not self.stopping
        return wanted and self.rollout.knows(seat.generation)
