"""The life of a seat: every cell of its table, and what a slot says of its seats."""

from __future__ import annotations

import pytest

from obworker.supervisor.policy import RestartPolicy
from obworker.supervisor.scoreboard import SERVING, State
from obworker.supervisor.slots import (
    BEING_KILLED,
    COMING,
    GOING,
    HAS_PROCESS,
    TRANSITIONS,
    VACANT,
    Event,
    IllegalTransition,
    Seat,
    Slot,
)

# What each event leads to, by the first three letters of the state; a dot where it is refused.
CELLS = """
              SPAWN  SPAWNED READY BEGIN FINISH DRAIN DUMP ABORT KILL STICK EXIT WAIT VACATE RETIRE
    empty     spa    .       .     .     .      .     .    .     .    .     .    bac  .      ret
    spawning  .      boo     .     .     .      .     .    .     .    .     rea  .    .      .
    booting   .      .       idl   .     .      .     dum  .     kil  .     rea  .    .      .
    idle      .      .       .     bus   .      dra   dum  .     kil  .     rea  .    .      .
    busy      .      .       .     .     idl    dra   dum  .     kil  .     rea  .    .      .
    draining  .      .       .     .     .      .     .    .     kil  .     rea  .    .      .
    dumping   .      .       .     .     .      dra   .    abo   kil  .     rea  .    .      .
    aborting  .      .       .     .     .      .     .    .     kil  .     rea  .    .      .
    killing   .      .       .     .     .      .     .    .     .    stu   rea  .    .      .
    stuck     .      .       .     .     .      .     .    .     .    .     rea  .    .      .
    reaped    .      .       .     .     .      .     .    .     .    .     .    bac  emp    ret
    backoff   spa    .       .     .     .      .     .    .     .    .     .    .    emp    ret
    retired   .      .       .     .     .      .     .    .     .    .     .    .    emp    .
"""
SHORT = {state.name.lower()[:3]: state for state in State}
EVENTS, *ROWS = (line.split() for line in CELLS.strip().splitlines())
TABLE = {
    State[state.upper()]: dict(zip((Event[name] for name in EVENTS), targets, strict=True))
    for state, *targets in ROWS
}
LEGAL = [
    (state, event, SHORT[target])
    for state, row in TABLE.items()
    for event, target in row.items()
    if target != "."
]
ILLEGAL = [
    (state, event) for state, row in TABLE.items() for event, target in row.items() if target == "."
]


def name(value: object) -> str:
    return value.name.lower() if isinstance(value, State | Event) else str(value)


def seat_in(state: State) -> Seat:
    return Seat(7, 1, state, deadline=5.0, pid=123, generation=2, recycle="why", expected=True)


def test_the_cells_name_every_state_and_every_event() -> None:
    assert set(TABLE) == set(State) == set(TRANSITIONS)
    assert len(SHORT) == len(State)
    assert len(LEGAL) + len(ILLEGAL) == len(State) * len(Event)
    assert sum(len(row) for row in TRANSITIONS.values()) == len(LEGAL)


@pytest.mark.parametrize(("state", "event", "target"), LEGAL, ids=name)
def test_an_event_leads_to_the_next_state_and_replaces_the_deadline(
    state: State, event: Event, target: State
) -> None:
    seat, expected = seat_in(state), seat_in(target)
    seat.apply(event, deadline=9.0)
    expected.deadline = 9.0
    assert seat == expected
    seat = seat_in(state)
    seat.apply(event)
    assert seat.deadline is None


@pytest.mark.parametrize(("state", "event"), ILLEGAL, ids=name)
def test_an_event_that_cannot_happen_is_refused_and_changes_nothing(
    state: State, event: Event
) -> None:
    seat = seat_in(state)
    with pytest.raises(IllegalTransition, match=f"slot 7: {event.name} in state {state.name}$"):
        seat.apply(event, deadline=9.0)
    assert seat == seat_in(state)


def test_from_every_state_but_the_last_a_seat_can_be_vacated_or_retired() -> None:
    ends = {State.RETIRED}
    while more := {
        state for state, row in TRANSITIONS.items() if state not in ends and ends & {*row.values()}
    }:
        ends |= more
    assert ends == set(State)


def test_every_state_belongs_to_one_part_of_a_life() -> None:
    parts = [VACANT, COMING, SERVING, GOING]
    assert sum(len(part) for part in parts) == len(State)
    assert frozenset().union(*parts) == set(State)


def test_there_is_a_process_from_the_fork_to_the_end() -> None:
    without = {State.SPAWNING, State.REAPED, State.BACKOFF}
    assert set(State) - HAS_PROCESS == without | VACANT
    assert BEING_KILLED < HAS_PROCESS


def test_a_life_forgets_the_one_before() -> None:
    seat = seat_in(State.SPAWNING)
    seat.ready_at = 3.0
    seat.begin_life(4, 1000.0)
    assert seat == Seat(7, 1, State.SPAWNING, 5.0, generation=4, spawned_at=1000.0)


@pytest.mark.parametrize(
    ("deadline", "late"), [(None, False), (1000.1, False), (1000.0, True), (999.0, True)]
)
def test_a_seat_is_late_from_its_deadline_on(deadline: float | None, late: bool) -> None:
    assert Seat(0, 0, deadline=deadline).is_late(1000.0) is late


def test_nothing_serves_in_a_new_slot() -> None:
    assert Slot(3, RestartPolicy(lambda: 0.5)).serving is None


def test_a_slot_knows_its_seats_and_which_of_them_serves() -> None:
    slot = Slot(3, RestartPolicy(lambda: 0.5))
    first, second = slot.seats
    assert (first.slot, first.number, second.slot, second.number) == (3, 0, 3, 1)
    assert (slot.other(first), slot.other(second)) == (second, first)
    first.state, first.spawned_at = State.IDLE, 2.0
    assert slot.serving is first
    second.state, second.spawned_at = State.BUSY, 1.0
    assert slot.serving is first
    second.spawned_at = 3.0
    assert slot.serving is second
    assert slot.within(State.IDLE) == [first]
    assert slot.within(State.BUSY, State.IDLE) == [first, second]
