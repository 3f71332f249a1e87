"""The table of slots: every transition, and whole stories told to it by a fake clock."""

from __future__ import annotations

import pytest

from obworker.supervisor.policy import RestartPolicy
from obworker.supervisor.slots import (
    MOST_SPAWNING,
    TRANSITIONS,
    UNREACHABLE_TIMEOUT,
    Action,
    Event,
    IllegalTransition,
    Slot,
    State,
    Table,
    Timeouts,
)

# state: what each event leads to, in the order of Event; a dot where it must be refused
#               SPAWN     SPAWNED  READY  DRAIN     KILL     EXIT    WAIT     RETIRE
CELLS = """
    empty       spawning  .        .      .         .        .       .        retired
    spawning    .         booting  .      .         .        reaped  .        .
    booting     .         .        ready  .         killing  reaped  .        .
    ready       .         .        .      draining  killing  reaped  .        .
    draining    .         .        .      .         killing  reaped  .        .
    killing     .         .        .      .         .        reaped  .        .
    reaped      .         .        .      .         .        .       backoff  retired
    backoff     spawning  .        .      .         .        .       .        retired
    retired     .         .        .      .         .        .       .        .
"""
TABLE = {
    State(line.split()[0]): dict(zip(Event, line.split()[1:], strict=True))
    for line in CELLS.strip().splitlines()
}
LEGAL = [
    (state, event, State(target))
    for state, row in TABLE.items()
    for event, target in row.items()
    if target != "."
]
ILLEGAL = [
    (state, event) for state, row in TABLE.items() for event, target in row.items() if target == "."
]


def name(value: object) -> str:
    return value.value if isinstance(value, State | Event) else str(value)


def half() -> float:
    return 0.5


def slot_in(state: State) -> Slot:
    return Slot(7, RestartPolicy(half), state=state, pid=123, deadline=5.0)


def test_the_cells_name_every_state_and_every_event() -> None:
    assert set(TABLE) == set(State) == set(TRANSITIONS)
    assert len(LEGAL) + len(ILLEGAL) == len(State) * len(Event)
    assert sum(len(row) for row in TRANSITIONS.values()) == len(LEGAL)


@pytest.mark.parametrize(("state", "event", "target"), LEGAL, ids=name)
def test_an_event_leads_to_the_next_state_and_replaces_the_deadline(
    state: State, event: Event, target: State
) -> None:
    slot = slot_in(state)
    slot.apply(event, deadline=9.0)
    assert (slot.state, slot.deadline, slot.pid) == (target, 9.0, 123)
    slot = slot_in(state)
    slot.apply(event)
    assert slot.deadline is None


@pytest.mark.parametrize(("state", "event"), ILLEGAL, ids=name)
def test_an_event_that_cannot_happen_is_refused_and_changes_nothing(
    state: State, event: Event
) -> None:
    slot = slot_in(state)
    with pytest.raises(IllegalTransition, match=f"slot 7: {event.name} in state {state.name}"):
        slot.apply(event, deadline=9.0)
    assert slot == slot_in(state)


# stories


class Story:
    """A table with one slot and a clock that moves when told to."""

    def __init__(self, size: int = 1) -> None:
        timeouts = Timeouts(spawn=10, boot=100, graceful=25)
        self.table = Table(size, timeouts, chance=half)
        self.slot = self.table.slots[0]
        self.now = 1000.0

    @property
    def ready_count(self) -> int:
        return sum(slot.state is State.READY for slot in self.table.slots)

    def due(self, *, can_spawn: bool = True) -> list[Action]:
        return [action for action, _ in self.table.due(self.now, can_spawn=can_spawn)]

    def spawn(self) -> None:
        assert self.due() == [Action.SPAWN]
        self.table.spawn(self.slot, self.now)

    def boot(self, pid: int = 50) -> None:
        self.spawn()
        self.table.spawned(self.slot, pid)

    def serve(self, pid: int = 50) -> None:
        self.boot(pid)
        self.table.ready(self.slot, self.now)

    def exit(self, *, certain: bool = False) -> float | None:
        return self.table.exited(self.slot, self.now, certain=certain)

    @property
    def left(self) -> float | None:
        """How long it is until something is due by itself."""
        deadline = self.table.next_deadline(can_spawn=True)
        return None if deadline is None else deadline - self.now


def test_a_slot_is_filled_and_serves() -> None:
    story = Story()
    assert (story.left, story.due(can_spawn=False)) == (None, [])
    story.spawn()
    assert (story.slot.state, story.left, story.due()) == (State.SPAWNING, 10, [])
    story.now += 4
    story.table.spawned(story.slot, 50)
    assert (story.slot.state, story.left, story.due()) == (State.BOOTING, 96, [])
    assert story.table.of_pid(50) is story.slot
    assert story.ready_count == 0
    story.now += 90
    story.table.ready(story.slot, story.now)
    assert (story.slot.state, story.left, story.due()) == (State.READY, None, [])
    assert story.ready_count == 1
    assert not story.table.is_over


def test_a_worker_that_crashes_once_is_replaced_at_once() -> None:
    story = Story()
    story.serve()
    assert story.exit() == 0.0
    assert (story.slot.state, story.slot.pid, story.left) == (State.BACKOFF, None, 0.0)
    assert story.table.of_pid(50) is None
    story.serve(pid=51)


def test_a_worker_that_crashes_in_a_row_waits_longer_each_time_up_to_half_a_minute() -> None:
    story = Story()
    waits = []
    for _ in range(9):
        story.serve()
        wait = story.exit()
        assert wait is not None
        waits.append(wait)
        if wait:
            story.now += wait - 0.001
            assert story.due() == []
            story.now += 0.002
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_minute_of_health_wipes_the_slate() -> None:
    story = Story()
    for _ in range(4):
        story.serve()
        story.now += story.exit() or 0
    story.serve()
    story.now += 60
    assert story.exit() == 0.0


def test_a_time_just_short_of_health_does_not_wipe_the_slate() -> None:
    story = Story()
    story.serve()
    story.exit()
    story.serve()
    story.now += 59.9
    assert story.exit() == 0.5


def test_boots_that_fail_are_given_up_after_the_fifth() -> None:
    story = Story()
    waits = []
    for _ in range(5):
        story.boot()
        waits.append(story.exit())
        story.now += waits[-1] or 0
    assert waits == [0.5, 1, 2, 4, None]
    assert story.table.gave_up
    assert (story.slot.state, story.table.is_over, story.due()) == (State.RETIRED, True, [])


def test_a_boot_that_must_fail_again_is_given_up_at_once() -> None:
    story = Story()
    story.boot()
    assert story.exit(certain=True) is None
    assert story.table.gave_up


def test_boots_that_fail_after_one_was_ready_are_tried_for_ever() -> None:
    story = Story()
    story.serve()
    story.exit()
    for _ in range(20):
        story.boot()
        wait = story.exit(certain=True)
        assert wait is not None
        story.now += wait
    assert not story.table.gave_up


def test_failed_boots_of_all_slots_count_together() -> None:
    story = Story(size=3)
    for number in range(5):
        slot = story.table.slots[number % 3]
        story.table.spawn(slot, story.now)
        story.table.spawned(slot, 50 + number)
        wait = story.table.exited(slot, story.now)
        assert (wait is None) == (number == 4)
        story.now += wait or 0
    assert story.table.gave_up


def test_a_worker_that_was_ready_saves_the_others_from_being_given_up() -> None:
    story = Story(size=2)
    story.table.spawn(story.slot, story.now)
    story.table.spawned(story.slot, 50)
    story.table.ready(story.slot, story.now)
    other = story.table.slots[1]
    for number in range(10):
        story.table.spawn(other, story.now)
        story.table.spawned(other, 60 + number)
        wait = story.table.exited(other, story.now)
        assert wait is not None
        story.now += wait
    assert story.ready_count == 1


def test_a_mold_that_does_not_fork_is_given_up() -> None:
    story = Story()
    story.spawn()
    story.now += 9.99
    assert story.due() == []
    story.now += 0.01
    assert story.due(can_spawn=False) == [Action.GIVE_UP_SPAWN]
    assert story.exit() == 0.5
    assert story.slot.state is State.BACKOFF


def test_a_boot_that_takes_too_long_is_killed_once() -> None:
    story = Story()
    story.boot()
    story.now += 99.99
    assert story.due() == []
    story.now += 0.01
    assert story.due() == [Action.KILL]
    story.table.kill(story.slot)
    assert (story.slot.state, story.left, story.due()) == (State.KILLING, None, [])
    assert story.exit() == 0.5


def test_a_boot_is_timed_from_the_order_not_from_the_fork() -> None:
    story = Story()
    story.spawn()
    story.now += 9
    story.table.spawned(story.slot, 50)
    assert story.left == 91


def test_a_backoff_waits_for_a_mold() -> None:
    story = Story()
    story.serve()
    story.exit()
    assert story.due(can_spawn=False) == []
    assert story.table.next_deadline(can_spawn=False) is None
    assert story.due(can_spawn=True) == [Action.SPAWN]


def test_a_stop_drains_what_serves() -> None:
    story = Story()
    story.serve()
    story.table.stop()
    assert story.due() == [Action.DRAIN]
    story.table.drain(story.slot, story.now)
    assert (story.slot.state, story.left, story.due()) == (State.DRAINING, 25, [])
    assert story.exit() is None
    assert (story.slot.state, story.table.is_over) == (State.RETIRED, True)


def test_a_drain_that_takes_too_long_is_killed() -> None:
    story = Story()
    story.serve()
    story.table.stop()
    story.table.drain(story.slot, story.now)
    story.now += 25
    assert story.due() == [Action.KILL]
    story.table.kill(story.slot)
    assert story.due() == []
    assert story.exit() is None
    assert story.table.is_over


def test_a_stop_while_booting_kills() -> None:
    story = Story()
    story.boot()
    story.table.stop()
    assert story.due() == [Action.KILL]
    story.table.kill(story.slot)
    assert story.exit() is None
    assert (story.table.is_over, story.table.gave_up) == (True, False)


def test_a_stop_while_spawning_gives_the_spawn_up() -> None:
    story = Story()
    story.spawn()
    story.table.stop()
    assert story.due(can_spawn=False) == [Action.GIVE_UP_SPAWN]
    assert story.exit() is None
    assert story.table.is_over


@pytest.mark.parametrize("crashed", [False, True])
def test_a_stop_while_nothing_runs_is_over(crashed: bool) -> None:
    story = Story()
    if crashed:
        story.serve()
        story.exit()
    story.table.stop()
    assert (story.table.is_over, story.due(), story.left) == (True, [], None)


def test_a_second_stop_changes_nothing() -> None:
    story = Story(size=2)
    story.table.spawn(story.slot, story.now)
    story.table.stop()
    story.table.stop()
    assert [slot.state for slot in story.table.slots] == [State.SPAWNING, State.RETIRED]


def test_a_worker_that_crashes_while_all_stop_is_not_replaced() -> None:
    story = Story()
    story.serve()
    story.table.stop()
    assert story.exit() is None
    assert story.table.is_over


def test_the_nearest_deadline_of_all_slots_counts() -> None:
    story = Story(size=3)
    for number, slot in enumerate(story.table.slots):
        story.table.spawn(slot, story.now + number)
    assert story.left == 10
    story.table.spawned(story.slot, 50)
    assert story.left == 11


def test_each_slot_has_failures_of_its_own() -> None:
    story = Story(size=2)
    other = story.table.slots[1]
    for slot in story.table.slots:
        story.table.spawn(slot, story.now)
        story.table.spawned(slot, 50 + slot.index)
        story.table.ready(slot, story.now)
    assert story.exit() == 0.0
    assert story.table.exited(other, story.now) == 0.0


def test_only_a_few_workers_are_asked_for_at_a_time() -> None:
    story = Story(size=MOST_SPAWNING + 2)
    asked = story.table.due(story.now, can_spawn=True)
    assert [slot.index for _, slot in asked] == list(range(MOST_SPAWNING))
    for _, slot in asked:
        story.table.spawn(slot, story.now)
    assert story.due() == []
    story.table.spawned(story.slot, 50)
    assert [slot.index for _, slot in story.table.due(story.now, can_spawn=True)] == [MOST_SPAWNING]


def test_a_slot_whose_turn_has_not_come_is_no_reason_to_wake_up() -> None:
    story = Story(size=MOST_SPAWNING + 1)
    for slot in story.table.slots:
        story.table.spawn(slot, story.now)
    story.exit()
    for slot in story.table.slots[1:]:
        slot.deadline = None
    assert story.left is None
    story.table.spawned(story.table.slots[1], 50)
    story.table.slots[1].deadline = None
    assert story.left == pytest.approx(0.5)


def test_a_process_that_the_mold_took_with_it_is_no_failed_boot() -> None:
    story = Story()
    for _ in range(10):
        story.spawn()
        story.table.unspawned(story.slot, story.now)
        assert (story.slot.state, story.table.gave_up) == (State.BACKOFF, False)
    story.spawn()
    story.table.stop()
    story.table.unspawned(story.slot, story.now)
    assert story.table.is_over


def test_a_process_that_cannot_tell_of_itself_is_soon_given_up() -> None:
    story = Story()
    story.spawn()
    story.table.unreachable(story.slot, story.now)
    assert story.left == UNREACHABLE_TIMEOUT
    story.now += UNREACHABLE_TIMEOUT
    assert story.due() == [Action.GIVE_UP_SPAWN]
