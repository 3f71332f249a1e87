"""Plays stories through a process table, with a clock that a test sets and without processes.

A `Play` stands for the master: it carries out every action that is due by calling the method of the
table for it. A story has one line for each event. A line has the event; then the contents of all
slots after every action that is due has been carried out; and, if the event returns something, what
it returns:

    reload 2    | idle1+spawning2 idle1
    spawned 0   | idle1+booting2 idle1
    fail 0      | idle1+backoff idle1      | retry 0.5

Commas separate events that the master learns of at the same time. A slot shows the state and the
generation of each of its processes, in the order in which the processes were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from obworker.supervisor.agenda import Agenda
from obworker.supervisor.rollout import Outcome, Strategy
from obworker.supervisor.scoreboard import SERVING, State
from obworker.supervisor.slots import GOING, VACANT, Action, Seat, Slot, Timeouts
from obworker.supervisor.table import End, Table

TIMEOUTS = Timeouts(spawn=10, load=50, boot=100, graceful=25)


class Play:
    """A table with a clock and molds; a `chance` of 0.5 means that waits have no jitter."""

    def __init__(
        self,
        size: int = 1,
        strategy: Strategy = Strategy.SURGE,
        *,
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.table = Table(size, TIMEOUTS, chance, strategy)
        self.agenda = Agenda(self.table, self.can_spawn)
        self.now = 1000.0
        self.molds = set(range(1, 100))
        self.done: list[tuple[Action, int]] = []
        self.busy: dict[int, float] = {}
        self.beats: dict[int, float] = {}
        self._asked: dict[int, int] = {}
        self._asks = 0

    @classmethod
    def serving(cls, size: int, strategy: Strategy = Strategy.SURGE) -> Play:
        """Return a play in which every slot has served generation 1 for a while."""
        play = cls(size, strategy)
        play.act()
        for slot in range(size):
            play.happen("boot", str(slot))
            play.act()
        assert play.is_settled
        assert play.table.rollout.is_complete
        play.now += 100
        play.act()
        return play

    def can_spawn(self, generation: int) -> bool:
        return generation in self.molds

    @property
    def left(self) -> float | None:
        """Seconds until the next deadline, None if there is no deadline."""
        deadline = self.agenda.next_deadline
        return None if deadline is None else deadline - self.now

    @property
    def is_settled(self) -> bool:
        """Whether every slot is as it should be, or holds a stuck process and cannot be changed."""
        return all(map(self._is_settled, self.table.slots))

    def _is_settled(self, slot: Slot) -> bool:
        if slot.within(State.STUCK):
            return True
        occupied = [seat for seat in slot.seats if seat.state not in VACANT]
        if not slot.wanted:
            return not occupied
        serving = slot.serving
        return (
            serving is not None and occupied == [serving] and self.table.rollout.fits(slot, serving)
        )

    # what the master does

    def act(self) -> list[tuple[Action, int]]:
        """Carry out every action that is due, as the master does when it is woken.

        Afterwards nothing may be due, because the master is not woken before the next event or
        deadline. Three actions are exceptions, after which it looks again. To give up a spawn, and
        to declare a worker stuck, are events themselves. After a dump it may be the next worker's
        turn, and a dump wakes the master after a second anyway.
        """
        self.done = []
        self.observe()
        while self._act() & {Action.GIVE_UP_SPAWN, Action.STICK, Action.DUMP}:
            continue
        assert not list(self.agenda.due(self.now)), "something was missed"
        assert self.left is None or self.left > 0, "the master would spin"
        return self.done

    def _act(self) -> set[Action]:
        done = set()
        for action, seat in self.agenda.due(self.now):
            self.done.append((action, seat.slot))
            self.carry_out(action, seat)
            done.add(action)
        return done

    def observe(self) -> None:
        for seat in self.table.seats:
            if seat.state in SERVING:
                deadline = self.busy.get(id(seat), math.inf)
                beat = self.beats.get(id(seat), self.now)
                in_flight = int(id(seat) in self.busy)
                self.table.observe(
                    seat, self.now, in_flight=in_flight, deadline=deadline, beat=beat
                )

    def carry_out(self, action: Action, seat: Seat) -> None:
        table, now = self.table, self.now
        if action is Action.SPAWN:
            self._asks += 1
            self._asked[id(seat)] = self._asks
            self.busy.pop(id(seat), None)
            self.beats.pop(id(seat), None)
            table.spawn(seat, now)
        elif action is Action.STICK:
            self.follow(table.stick(seat))
        elif action is Action.GIVE_UP_SPAWN:
            self.exited(seat)
        else:
            steps = {
                Action.DRAIN: table.drain,
                Action.DUMP: table.dump,
                Action.ABORT: table.abort,
                Action.KILL: table.kill,
            }
            steps[action](seat, now)

    def exited(
        self, seat: Seat, *, certain: bool = False, no_room: bool = False, device_lost: bool = False
    ) -> End:
        end = self.table.exited(
            seat, self.now, certain=certain, no_room=no_room, device_lost=device_lost
        )
        self.follow(end)
        return end

    def follow(self, end: End) -> None:
        """Stop the table if the end of a process means that the service gives up."""
        if end.outcome is Outcome.GAVE_UP:
            self.table.stop()

    # stories

    def tell(self, story: str) -> None:
        """Play a story, and check the outcome of every line."""
        for line in story.strip().splitlines():
            event, picture, *rest = (part.strip() for part in line.split("|"))
            came = "".join(self.happen(*part.split()) for part in event.split(","))
            self.act()
            assert (self.picture, came) == (" ".join(picture.split()), "".join(rest)), line.strip()

    def happen(self, event: str, *arguments: str) -> str:
        """Play one event, and return what it returns, as text."""
        return str(getattr(self, f"_{event}")(*arguments) or "")

    @property
    def picture(self) -> str:
        """The contents of all slots."""
        return " ".join(
            "+".join(self._draw(seat) for seat in sorted(slot.seats, key=self._order) if _is(seat))
            or "-"
            for slot in self.table.slots
        )

    def _order(self, seat: Seat) -> tuple[bool, int]:
        return seat.state is State.BACKOFF, self._asked.get(id(seat), 0)

    def _draw(self, seat: Seat) -> str:
        name = seat.state.name.lower()
        return name if seat.state is State.BACKOFF else f"{name}{seat.generation}"

    def seat(self, slot: str, *states: State) -> Seat:
        """Return the one seat of a slot that is in one of `states`."""
        (seat,) = self.table.slots[int(slot)].within(*states)
        return seat

    # events

    def _start(self) -> None:
        """Do nothing: what is due is carried out after every event, and so after this one."""

    def _spawned(self, slot: str) -> None:
        seat = self.seat(slot, State.SPAWNING)
        self.table.spawned(seat, 50 + self._asks)

    def _ready(self, slot: str) -> str:
        is_new = self.table.became_ready(self.seat(slot, State.BOOTING), self.now)
        return "current" if is_new else ""

    def _boot(self, slot: str) -> str:
        self._spawned(slot)
        return self._ready(slot)

    def _fail(self, slot: str, how: str = "") -> str:
        """Let the booting worker of a slot end; if it is not spawned yet, spawn it first."""
        if self.table.slots[int(slot)].within(State.SPAWNING):
            self._spawned(slot)
        seat = self.seat(slot, State.BOOTING)
        return _text(self.exited(seat, certain=how == "certain", no_room=how == "no_room"))

    def _fail_by_device(self, slot: str) -> str:
        """Let the booting worker of a slot end because its GPU failed."""
        self._spawned(slot)
        return _text(self.exited(self.seat(slot, State.BOOTING), certain=True, device_lost=True))

    def _lose_device(self, slot: str) -> str:
        """Let the serving worker of a slot leave because its GPU failed."""
        wait = self.table.leaving(self.seat(slot, *SERVING), self.now, device_lost=True)
        return "later" if wait is None else f"{wait:g}"

    def _gone_by_device(self, slot: str) -> str:
        return _text(self.exited(self.seat(slot, *GOING), device_lost=True))

    def _hold(self, *slots: str) -> None:
        """Put the devices of these slots into quarantine, and release all other devices."""
        self.table.quarantine(lambda slot: str(slot) in slots)

    def _crash(self, slot: str) -> str:
        return _text(self.exited(self.seat(slot, *SERVING)))

    def _gone(self, slot: str) -> str:
        """Let the worker of a slot end that was told to leave, or was killed."""
        return _text(self.exited(self.seat(slot, *GOING)))

    def _gone_all(self, slot: str) -> None:
        for seat in self.table.slots[int(slot)].within(*GOING):
            self.exited(seat)

    def _leave(self, slot: str, *states: State) -> str:
        wait = self.table.leaving(self.seat(slot, *(states or SERVING)), self.now)
        return "later" if wait is None else f"{wait:g}"

    def _revive(self, slot: str) -> str:
        """Let the worker that was told to dump its stacks recover, and leave."""
        return self._leave(slot, State.DUMPING)

    def _leave_older(self, slot: str) -> str:
        serving = self.table.slots[int(slot)].within(*SERVING)
        return f"{self.table.leaving(min(serving, key=self._order), self.now):g}"

    def _recycle(self, slot: str) -> None:
        self.seat(slot, *SERVING).recycle = "has served its time"

    def _freeze(self, slot: str) -> None:
        """Let the event loop of a slot's worker stand still: its last heartbeat was now."""
        self.beats[id(self.seat(slot, *SERVING))] = self.now

    def _begin(self, slot: str, seconds: str) -> None:
        """Let a request enter predict; it may take so many seconds, or any time if that is 0."""
        deadline = self.now + float(seconds) if float(seconds) else 0.0
        self.busy[id(self.seat(slot, *SERVING))] = deadline

    def _finish(self, slot: str) -> None:
        del self.busy[id(self.seat(slot, *SERVING))]

    def _reload(self, generation: str) -> None:
        self.table.rollout.reload(int(generation))

    def _drop(self) -> None:
        self.table.rollout.drop_candidate()

    def _continue(self, generation: str) -> None:
        self.table.rollout.continue_as(int(generation))

    def _forget(self, generation: str) -> None:
        """Lose the mold of a generation."""
        self.molds.discard(int(generation))

    def _mold(self, generation: str) -> None:
        self.molds.add(int(generation))

    def _resize(self, size: str) -> None:
        self.table.resize(int(size))

    def _stop(self) -> None:
        self.table.stop()

    def _wait(self, seconds: str) -> None:
        self.now += float(seconds)


def _is(seat: Seat) -> bool:
    return seat.state not in (State.EMPTY, State.RETIRED)


def _text(end: End) -> str:
    return (
        f"{end.outcome.value} {end.wait:g}" if end.outcome is Outcome.RETRY else end.outcome.value
    )
