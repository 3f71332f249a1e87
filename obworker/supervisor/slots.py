"""The process table: which slot is in which state, and what is to be done about it. Pure.

Theory of operation
-------------------
A slot is a place for one worker, for ever: its GPU, its title and its history stay when processes
come and go. The master feeds the table events, each with the time it happened:

    SPAWN   the mold was asked for a process        SPAWNED  the process exists
    READY   it serves                               DRAIN    it was told to finish
    KILL    it was sent SIGKILL                     EXIT     it is gone, or will never come
    RETIRE  the slot is not to be filled again      WAIT     the slot waits before the next try

and asks it for the actions that are due. Rules:

1. Everything that decides about a slot is in this file; the master only carries it out.
2. A state has at most one deadline. What happens at it is a property of the state.
3. Where a process ended matters, not how: an end before READY is a failed boot whatever the exit
   code (a worker that calls sys.exit(0) while it boots has not done its work).
4. While the table stops, no slot is filled: an EXIT leads to RETIRED.
5. A mold forks one worker after another, so only a few are asked for at a time.

An event that a state does not know raises `IllegalTransition`, and nothing changes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from obworker.supervisor.policy import BootPolicy, RestartPolicy


class State(enum.Enum):
    """What a slot holds."""

    EMPTY = "empty"
    SPAWNING = "spawning"
    BOOTING = "booting"
    READY = "ready"
    DRAINING = "draining"
    KILLING = "killing"
    REAPED = "reaped"
    BACKOFF = "backoff"
    RETIRED = "retired"


class Event(enum.Enum):
    """What can happen to a slot."""

    SPAWN = "spawn"
    SPAWNED = "spawned"
    READY = "ready"
    DRAIN = "drain"
    KILL = "kill"
    EXIT = "exit"
    WAIT = "wait"
    RETIRE = "retire"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.EMPTY: {Event.SPAWN: State.SPAWNING, Event.RETIRE: State.RETIRED},
    State.SPAWNING: {Event.SPAWNED: State.BOOTING, Event.EXIT: State.REAPED},
    State.BOOTING: {
        Event.READY: State.READY,
        Event.KILL: State.KILLING,
        Event.EXIT: State.REAPED,
    },
    State.READY: {
        Event.DRAIN: State.DRAINING,
        Event.KILL: State.KILLING,
        Event.EXIT: State.REAPED,
    },
    State.DRAINING: {Event.KILL: State.KILLING, Event.EXIT: State.REAPED},
    State.KILLING: {Event.EXIT: State.REAPED},
    State.REAPED: {Event.WAIT: State.BACKOFF, Event.RETIRE: State.RETIRED},
    State.BACKOFF: {Event.SPAWN: State.SPAWNING, Event.RETIRE: State.RETIRED},
    State.RETIRED: {},
}

MOST_SPAWNING = 4
UNREACHABLE_TIMEOUT = 0.5
HAS_PROCESS = frozenset((State.BOOTING, State.READY, State.DRAINING, State.KILLING))


class IllegalTransition(Exception):
    """An event that cannot happen in the state its slot is in: a bug in the master."""


class Action(enum.Enum):
    """What the master is to do for a slot."""

    SPAWN = "spawn"
    DRAIN = "drain"
    KILL = "kill"
    GIVE_UP_SPAWN = "give up spawn"


@dataclass(frozen=True)
class Timeouts:
    """How long a slot may stay in a state, in seconds."""

    spawn: float = 10.0
    boot: float = 600.0
    graceful: float = 25.0


@dataclass
class Slot:
    """One place for a worker."""

    index: int
    restarts: RestartPolicy
    state: State = State.EMPTY
    pid: int | None = None
    deadline: float | None = None
    spawned_at: float = 0.0
    ready_at: float | None = None

    def apply(self, event: Event, *, deadline: float | None = None) -> None:
        """Go where the table says; the new state's deadline replaces the old one."""
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise IllegalTransition(
                f"slot {self.index}: {event.name} in state {self.state.name}"
            ) from None
        self.deadline = deadline


@dataclass
class Table:
    """All slots; `chance` gives numbers from 0 to 1 for the jitter of backoffs."""

    size: int
    timeouts: Timeouts
    chance: Callable[[], float]
    boots: BootPolicy = field(default_factory=BootPolicy)
    stopping: bool = False
    gave_up: bool = False
    slots: list[Slot] = field(init=False)

    def __post_init__(self) -> None:
        self.slots = [Slot(index, RestartPolicy(self.chance)) for index in range(self.size)]

    # events

    def spawn(self, slot: Slot, now: float) -> None:
        """Note that the mold was asked for a process."""
        slot.apply(Event.SPAWN, deadline=now + self.timeouts.spawn)
        slot.spawned_at, slot.ready_at, slot.pid = now, None, None

    def spawned(self, slot: Slot, pid: int) -> None:
        """Note that the process exists; its boot has been timed since the spawn."""
        slot.apply(Event.SPAWNED, deadline=slot.spawned_at + self.timeouts.boot)
        slot.pid = pid

    def unreachable(self, slot: Slot, now: float) -> None:
        """Note that a process that was asked for has no way to tell us of itself.

        It is soon due to be given up, unless the mold turns out to be gone.
        """
        slot.deadline = now + UNREACHABLE_TIMEOUT

    def ready(self, slot: Slot, now: float) -> None:
        """Note that the worker serves."""
        slot.apply(Event.READY)
        slot.ready_at = now
        self.boots.ready()

    def drain(self, slot: Slot, now: float) -> None:
        """Note that the worker was told to finish."""
        slot.apply(Event.DRAIN, deadline=now + self.timeouts.graceful)

    def kill(self, slot: Slot) -> None:
        """Note that the worker was sent SIGKILL; nothing is left but to wait for its end."""
        slot.apply(Event.KILL)

    def exited(self, slot: Slot, now: float, *, certain: bool = False) -> float | None:
        """Note that the process is gone; return the wait before the next try, None for no try.

        `certain` says that the predictor itself refused to be built.
        """
        ready_for = None if slot.ready_at is None else now - slot.ready_at
        slot.apply(Event.EXIT)
        slot.pid = None
        if ready_for is None and not self.stopping:
            self.gave_up = self.boots.failed(certain=certain) or self.gave_up
        if self.stopping or self.gave_up:
            slot.apply(Event.RETIRE)
            return None
        wait = slot.restarts.ended(ready_for=ready_for)
        slot.apply(Event.WAIT, deadline=now + wait)
        return wait

    def unspawned(self, slot: Slot, now: float) -> None:
        """Note that the mold is gone before it made the process: the slot is not to blame."""
        slot.apply(Event.EXIT)
        if self.stopping:
            slot.apply(Event.RETIRE)
        else:
            slot.apply(Event.WAIT, deadline=now)

    def stop(self) -> None:
        """Fill no slot any more; `due` says how to empty those that are filled."""
        self.stopping = True
        for slot in self.slots:
            if slot.state in (State.EMPTY, State.BACKOFF):
                slot.apply(Event.RETIRE)

    # questions

    def due(self, now: float, *, can_spawn: bool) -> list[tuple[Action, Slot]]:
        """Return what is to be done now."""
        pairs = ((self._due(slot, now), slot) for slot in self.slots)
        found = [(action, slot) for action, slot in pairs if action is not None]
        spawns = [pair for pair in found if pair[0] is Action.SPAWN]
        possible = self._free_spawns if can_spawn else 0
        return [pair for pair in found if pair not in spawns] + spawns[:possible]

    def _due(self, slot: Slot, now: float) -> Action | None:
        late = slot.deadline is not None and now >= slot.deadline
        if slot.state is State.EMPTY or (slot.state is State.BACKOFF and late):
            return Action.SPAWN
        if slot.state is State.SPAWNING and (late or self.stopping):
            return Action.GIVE_UP_SPAWN
        if slot.state is State.BOOTING and (late or self.stopping):
            return Action.KILL
        if slot.state is State.READY and self.stopping:
            return Action.DRAIN
        if slot.state is State.DRAINING and late:
            return Action.KILL
        return None

    def next_deadline(self, *, can_spawn: bool) -> float | None:
        """Return the earliest moment at which something becomes due by itself.

        A slot that waits for its turn to be spawned waits for an event, not for a moment.
        """
        may_spawn = can_spawn and self._free_spawns > 0
        waiting = (slot for slot in self.slots if may_spawn or slot.state is not State.BACKOFF)
        return min((slot.deadline for slot in waiting if slot.deadline is not None), default=None)

    @property
    def _free_spawns(self) -> int:
        spawning = sum(slot.state is State.SPAWNING for slot in self.slots)
        return max(0, MOST_SPAWNING - spawning)

    @property
    def is_over(self) -> bool:
        """Whether no slot holds a process or will."""
        return all(slot.state is State.RETIRED for slot in self.slots)

    def of_pid(self, pid: int) -> Slot | None:
        """Return the slot whose process `pid` is."""
        return next((slot for slot in self.slots if slot.pid == pid), None)
