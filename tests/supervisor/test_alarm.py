"""When a loop wakes, and when it may judge."""

from __future__ import annotations

import math

import pytest

from obworker.supervisor.alarm import LATE, TICK, Alarm

NOW = 1000.0


@pytest.mark.parametrize(
    ("deadlines", "wait"),
    [
        ((), TICK),
        ((None, NOW + 0.25, NOW + 0.5), 0.25),
        ((NOW - 3,), 0),
        ((NOW + 60, math.inf), TICK),
    ],
)
def test_it_is_set_to_what_comes_first(deadlines: tuple[float | None, ...], wait: float) -> None:
    assert Alarm().set(NOW, *deadlines) == wait


def test_one_that_rang_in_time_is_fair_also_where_a_deadline_has_long_passed() -> None:
    alarm = Alarm()
    alarm.set(NOW, NOW - 60)
    assert alarm.woke(NOW)


def test_after_one_that_was_missed_everybody_has_a_round_to_catch_up() -> None:
    alarm = Alarm()
    alarm.set(NOW)
    woken = NOW + TICK + LATE
    assert not alarm.woke(woken)
    assert alarm.set(woken, woken - 1) == TICK
    assert not alarm.woke(woken + TICK / 2)
    assert alarm.woke(woken + TICK)
