"""The life of one process of a slot, as a table of states and events. Pure.

Theory of operation
-------------------
A slot is a place for one worker, for ever: its GPU, its title and its history stay when processes
come and go. It has two seats, so that a worker can be ready before the one it replaces leaves; a
seat holds at most one process, and this table says what can happen to it:

    SPAWN   the mold was asked for a process        SPAWNED  the process exists
    READY   it serves                               BEGIN    a request is in predict
    FINISH  none is any more                        DRAIN    it finishes, and takes nothing new
    DUMP    it was told to show its stacks          ABORT    it was sent SIGABRT
    KILL    its group was sent SIGKILL              STICK    not even that ended it
    EXIT    it is gone, or will never come          WAIT     the seat waits for the next try
    VACATE  the seat is free                        RETIRE   the seat is not to be filled

A seat has at most one deadline, and what happens at it is a property of its state:

    SPAWNING  the mold does not fork: give it up    BOOTING   show where it hangs, then kill it
    IDLE      it is frozen: likewise                BUSY      its request is overdue: likewise
    DRAINING  kill it                               DUMPING   abort it
    ABORTING  kill it                               KILLING   it is stuck in the kernel
    BACKOFF   try again

Which seats are to be filled, drained or given up is decided in agenda.py. An event that a state
does not know raises `IllegalTransition`, and nothing changes.
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

    `frozen` is how long an idle worker's loop may stand still; `answer` how long past its deadline
    a worker has to answer a request by itself.
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
    """An event that cannot happen in the state its seat is in: a bug in the master."""


@dataclass
class Seat:
    """One of a slot's two places for a process.

    `generation` is the code it runs. `recycle` says why it is to be replaced, if it is. `expected`
    is whether its end is wanted or already accounted for, and so no news. `idle_since` is from
    when on its event loop is judged. While it has `lost_device` the GPU's memory is not free.
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
        """Go where the table says; the new state's deadline replaces the old one."""
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise IllegalTransition(
                f"slot {self.slot}: {event.name} in state {self.state.name}"
            ) from None
        self.deadline = deadline

    def begin_life(self, generation: int, now: float) -> None:
        """Forget the process before; the next one runs `generation`."""
        self.generation, self.spawned_at = generation, now
        self.pid = self.ready_at = None
        self.recycle, self.expected, self.lost_device = "", False, False

    def is_late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and now >= self.deadline


@dataclass
class Slot:
    """A place for one worker, with its two seats; `quarantined` says that its device is."""

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
        """Return the seat beside `seat`."""
        return self.seats[1 - seat.number]

    @property
    def serving(self) -> Seat | None:
        """The newest process that serves."""
        return max(self.within(*SERVING), key=lambda seat: seat.spawned_at, default=None)
