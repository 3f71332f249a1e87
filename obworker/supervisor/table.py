"""The process table: what has happened to each seat, and what follows an end. Pure.

Theory of operation
-------------------
The master reports to the table what happened, and when, and asks agenda.py what is to be done. It
carries that out, and decides nothing about a slot itself. The events of a seat are in slots.py, the
code that a slot is to serve in rollout.py. This module is about ends:

1. An end before the worker is ready is a failed boot, whatever the exit code: a worker that calls
   sys.exit(0) while it boots has not done its work. A generation of which no worker was ever ready
   is given up after five; otherwise a slot is tried for ever, with a growing wait.
2. A worker that leaves by itself is replaced when it says so, not when it is gone.
3. An end that was wanted, or of code that is not wanted any more, is expected.
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
    """What follows the end of a process, and the wait before the next try in seconds."""

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
        self.rollout = Rollout(self.slots, strategy, chance)
        self.stopping = False
        self._chance = chance
        self.resize(size)

    # size

    def resize(self, size: int) -> None:
        """Set how many workers are wanted: in the slots with the lowest numbers."""
        self.wanted = size
        while len(self.slots) < size:
            self.slots.append(Slot(len(self.slots), RestartPolicy(self._chance)))
        for slot in self.slots:
            self._want(slot)

    def quarantine(self, is_held: Callable[[int], bool]) -> None:
        """Do not fill slots whose device is in quarantine; fill them again when it is not."""
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
        """Whether any slot may be filled; also true if no worker is wanted."""
        return any(slot.wanted for slot in self.slots) or not self.wanted

    def stop(self) -> None:
        """Fill no slot any more; agenda.py says how to empty those that are filled."""
        self.stopping = True
        for seat in self.seats:
            if seat.state in FREE:
                seat.apply(Event.RETIRE)

    @property
    def is_over(self) -> bool:
        """Whether no seat has a process or will get one, except for those that cannot be killed."""
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
        """Return the seat of the process `pid`, if there is one."""
        return next((seat for seat in self.seats if seat.pid == pid), None)

    # what happens to a process

    def spawn(self, seat: Seat, now: float) -> None:
        """Note that a process was requested."""
        seat.apply(Event.SPAWN, deadline=now + self.timeouts.spawn)
        seat.begin_life(self.generation_for(seat), now)

    def generation_for(self, seat: Seat) -> int:
        """Return the generation of code with which a seat is to be filled."""
        return self.rollout.generation_for(self.slots[seat.slot])

    def spawned(self, seat: Seat, pid: int, *, loads: bool = False) -> None:
        """Note that the process exists; the time of its boot counts from the spawn.

        `loads` says that it imports the code first.
        """
        boot = self.timeouts.boot + (self.timeouts.load if loads else 0.0)
        seat.apply(Event.SPAWNED, deadline=seat.spawned_at + boot)
        seat.pid = pid

    def unreachable(self, seat: Seat, now: float) -> None:
        """Note that the channel of a requested process has ended before the process was there.

        It is given up soon, unless the mold turns out to be gone.
        """
        seat.deadline = now + UNREACHABLE_TIMEOUT

    def became_ready(self, seat: Seat, now: float) -> bool:
        """Note that the worker serves; return whether that makes the candidate the current code."""
        seat.apply(Event.READY, deadline=now + self.timeouts.frozen)
        seat.ready_at = seat.idle_since = now
        return self.rollout.ready(seat.generation)

    def observe(
        self, seat: Seat, now: float, *, in_flight: int, deadline: float, beat: float
    ) -> None:
        """Note what the worker's row of the scoreboard says; a time of 0 means none.

        A worker with a request in predict is judged by the request's deadline alone: predict may
        hold the GIL, which stops the event loop. Without a request it is judged by its loop, whose
        time counts anew from the end of predict.
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
        """Note that the worker was told to finish what it has, and to leave."""
        seat.apply(Event.DRAIN, deadline=now + self.timeouts.graceful)
        seat.expected = True

    def leaving(self, seat: Seat, now: float, *, device_lost: bool = False) -> float | None:
        """Note that a worker drains by itself; return the wait before the next one.

        That is None if the next one comes when this one is gone, for example if its GPU is lost.
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
        """Note that the worker was told to dump its stacks, before its end."""
        seat.apply(Event.DUMP, deadline=now + self.timeouts.dump)

    def abort(self, seat: Seat, now: float) -> None:
        """Note that the worker was sent SIGABRT."""
        seat.apply(Event.ABORT, deadline=now + self.timeouts.abort)

    def kill(self, seat: Seat, now: float) -> None:
        """Note that the worker was sent SIGKILL; what remains is to wait for its end."""
        if seat.state is State.BOOTING and not self.is_awaited(seat):
            seat.expected = True
        seat.apply(Event.KILL, deadline=now + self.timeouts.kill)

    def stick(self, seat: Seat) -> End:
        """Note that SIGKILL did not end the worker: it sleeps in the kernel.

        A candidate with such a worker is not tried again, as each try would cost a slot.
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

        A boot that failed because the device did does not count against the code.
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
        """Let the slot wait before its next worker, unless one is coming already."""
        wait = self._count_end(slot, seat, now)
        if slot.within(*COMING):
            seat.apply(Event.VACATE)
        else:
            seat.apply(Event.WAIT, deadline=now + wait)
        return End(Outcome.RETRY, wait)

    def _count_end(self, slot: Slot, seat: Seat, now: float) -> float:
        """Return the wait after an end, which counts only if the next worker runs that code."""
        if not self.rollout.suits(slot, seat.generation):
            return 0.0
        restarts = self.rollout.restarts(slot, seat.generation)
        return restarts.ended(now, ready_at=seat.ready_at)

    def unspawned(self, seat: Seat) -> None:
        """Note that the mold ended before it made the process, which is not the slot's fault."""
        seat.apply(Event.EXIT)
        seat.apply(Event.RETIRE if self.stopping else Event.VACATE)

    def is_awaited(self, seat: Seat) -> bool:
        """Whether the worker that boots there is still wanted."""
        wanted = self.slots[seat.slot].wanted and not self.stopping
        return wanted and self.rollout.knows(seat.generation)
