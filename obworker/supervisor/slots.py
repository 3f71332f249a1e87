"""The life of one process of a slot, as a table of states and events. Pure.

Theory of operation
-------------------
A slot is a permanent place for one worker: its GPU, its title and its history stay when processes
come and go. It has two seats, so that a worker can be ready before the one that it replaces leaves.
A seat holds at most one process, and has these events:

    SPAWN   a process was requested                 SPAWNED  the process exists
    READY   it serves                               BEGIN    a request is in predict
    FINISH  no request is in predict                DRAIN    it finishes, and accepts nothing new
    DUMP    it was told to dump its stacks          ABORT    it was sent SIGABRT
    KILL    its group was sent SIGKILL              STICK    SIGKILL did not end it
    EXIT    it is gone, or will never come          WAIT     the seat waits for the next try
    VACATE  the seat is free                        RETIRE   the seat is not to be filled

A seat has at most one deadline. What happens then depends on its state:

    SPAWNING  the mold does not fork: give up       BOOTING   dump its stacks, then kill it
    IDLE      its loop stands still: likewise       BUSY      its request is overdue: likewise
    DRAINING  kill it                               DUMPING   abort it
    ABORTING  kill it                               KILLING   it is stuck in the kernel
    BACKOFF   try again

agenda.py decides which seats are to be filled, drained or given up. An event that is not allowed in
a state raises `IllegalTransition`, and nothing changes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from obworker.supervisor.policy import RestartPolicy
from obworker.supervisor.scoreboard import SEATS_PER_SLOT, SERVING, State


class Event(enum.Enum):
    """What can happen to a seat."""

    SPAWN = "spawn"
    SPAWNED = "spawned"
    READY = "ready"
    BEGIN = "begin"
    FINISH = "finish"
    DRAIN = "drain"
    DUMP = "dump"
    ABORT = "abort"
    KILL = "kill"
    STICK = "stick"
    EXIT = "exit"
    WAIT = "wait"
    VACATE = "vacate"
    RETIRE = "retire"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.EMPTY: {
        Event.SPAWN: State.SPAWNING,
        Event.WAIT: State.BACKOFF,
        Event.RETIRE: State.RETIRED,
    },
    State.SPAWNING: {Event.SPAWNED: State.BOOTING, Event.EXIT: State.REAPED},
    State.BOOTING: {
        Event.READY: State.IDLE,
        Event.DUMP: State.DUMPING,
        Event.KILL: State.KILLING,
        Event.EXIT: State.REAPED,
    },
    State.IDLE: {
        Event.BEGIN: State.BUSY,
        Event.DRAIN: State.DRAINING,
        Event.DUMP: State.DUMPING,
        Event.KILL: State.KILLING,
        Event.EXIT: State.REAPED,
    },
    State.BUSY: {
        Event.FINISH: State.IDLE,
        Event.DRAIN: State.DRAINING,
        Event.DUMP: State.DUMPING,
        Event.KILL: State.KILLING,
        Event.EXIT: State.REAPED,
    },
    State.DRAINING: {Event.KILL: State.KILLING, Event.EXIT: State.REAPED},
    State.DUMPING: {
        Event.DRAIN: State.DRAINING,
        Event.ABORT: State.ABORTING,
        Event.KILL: State.KILLING,
        Event.EXIT: State.REAPED,
    },
    State.ABORTING: {Event.KILL: State.KILLING, Event.EXIT: State.REAPED},
    State.KILLING: {Event.STICK: State.STUCK, Event.EXIT: State.REAPED},
    State.STUCK: {Event.EXIT: State.REAPED},
    State.REAPED: {
        Event.WAIT: State.BACKOFF,
        Event.VACATE: State.EMPTY,
        Event.RETIRE: State.RETIRED,
    },
    State.BACKOFF: {
        Event.SPAWN: State.SPAWNING,
        Event.VACATE: State.EMPTY,
        Event.RETIRE: State.RETIRED,
    },
    State.RETIRED: {Event.VACATE: State.EMPTY},
}


class Action(enum.Enum):
    """What the master is to do for a seat."""

    SPAWN = "spawn"
    DRAIN = "drain"
    DUMP = "dump"
    ABORT = "abort"
    KILL = "kill"
    STICK = "stick"
    GIVE_UP_SPAWN = "give up spawn"


WHEN_LATE = {
    State.SPAWNING: Action.GIVE_UP_SPAWN,
    State.BOOTING: Action.DUMP,
    State.IDLE: Action.DUMP,
    State.BUSY: Action.DUMP,
    State.DRAINING: Action.KILL,
    State.DUMPING: Action.ABORT,
    State.ABORTING: Action.KILL,
    State.KILLING: Action.STICK,
}


VACANT = frozenset((State.EMPTY, State.RETIRED))
COMING = frozenset((State.SPAWNING, State.BOOTING, State.BACKOFF))
BEING_KILLED = frozenset((State.DUMPING, State.ABORTING, State.KILLING, State.STUCK))
GOING = BEING_KILLED | {State.DRAINING, State.REAPED}
HAS_PROCESS = SERVING | BEING_KILLED | {State.BOOTING, State.DRAINING}


@dataclass(frozen=True)
class Timeouts:
    """How long a seat may stay in a state, in seconds.

    `frozen` is how long the loop of an idle worker may stand still; `answer` is how long a worker
    has, after the deadline of a request, to answer it by itself.
    """

    spawn: float = 10.0
    load: float = 600.0
    boot: float = 600.0
    graceful: float = 25.0
    frozen: float = 30.0
    answer: float = 1.0
    dump: float = 1.0
    abort: float = 5.0
    kill: float = 30.0


class IllegalTransition(Exception):
    """An event that is not allowed in the state of its seat: a bug in the master."""


@dataclass
class Seat:
    """One of a slot's two places for a process.

    `generation` is that of its code. `recycle` is why the process is to be replaced, if so.
    `expected` says that its end is wanted, or accounted for already. `idle_since` is when the time
    of its event loop began to count. `lost_device` says that its GPU failed, whose memory is not
    free before its end.
    """

    slot: int
    number: int
    state: State = State.EMPTY
    deadline: float | None = None
    pid: int | None = None
    generation: int = 0
    spawned_at: float = 0.0
    ready_at: float | None = None
    idle_since: float = 0.0
    recycle: str = ""
    expected: bool = False
    lost_device: bool = False

    def apply(self, event: Event, *, deadline: float | None = None) -> None:
        """Change the state as the table says; `deadline` replaces that of the old state."""
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise IllegalTransition(
                f"slot {self.slot}: {event.name} in state {self.state.name}"
            ) from None
        self.deadline = deadline

    def begin_life(self, generation: int, now: float) -> None:
        """Forget the previous process; the next one runs `generation`."""
        self.generation, self.spawned_at = generation, now
        self.pid = self.ready_at = None
        self.recycle, self.expected, self.lost_device = "", False, False

    def is_late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and now >= self.deadline


@dataclass
class Slot:
    """A place for one worker, with two seats; `quarantined` means that its device is."""

    index: int
    restarts: RestartPolicy
    wanted: bool = True
    quarantined: bool = False
    seats: tuple[Seat, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.seats = tuple(Seat(self.index, number) for number in range(SEATS_PER_SLOT))

    def within(self, *states: State) -> list[Seat]:
        """Return the seats that are in one of `states`."""
        return [seat for seat in self.seats if seat.state in states]

    def other(self, seat: Seat) -> Seat:
        """Return the other seat."""
        return self.seats[1 - seat.number]

    @property
    def serving(self) -> Seat | None:
        """The seat with the newest process that serves."""
        return max(self.within(*SERVING), key=lambda seat: seat.spawned_at, default=None)
