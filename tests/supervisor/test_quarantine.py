"""Devices that fail: how often is too often, and what becomes of their slots."""

from __future__ import annotations

import math

import pytest
from table_play import Play

from obworker.supervisor.quarantine import DURATION, NOTICED_WITHIN, WINDOW, Hold, Quarantine
from obworker.supervisor.scoreboard import State

NOW = 5000.0


@pytest.mark.parametrize(
    ("failures", "held"),
    [
        ([], False),
        ([0.0, 1.0], False),
        ([0.0, 1.0, 2.0], True),
        ([0.0, 1.0, WINDOW - 0.1], True),
        ([0.0, 1.0, WINDOW], False),
        ([0.0, WINDOW, WINDOW + 1, WINDOW + 2], True),
    ],
)
def test_three_failures_in_ten_minutes_are_too_many(failures: list[float], held: bool) -> None:
    quarantine = Quarantine()
    for after in failures:
        quarantine.failed("gpu 0", "bad", NOW + after, since=NOW + after)
    assert (quarantine.hold("gpu 0") is not None) is held


@pytest.mark.parametrize(
    ("failures", "held"),
    [
        # each is when it failed, and from when on the process was there
        ([(0.0, -9.0), (0.1, -9.0), (0.9, -9.0), (1.0, -9.0)], False),  # three workers and a fourth
        ([(0.0, -9.0), (0.5, 0.1), (1.5, 1.1)], True),  # one worker, whose replacements fail
        ([(0.0, -9.0), (0.1, -9.0), (0.5, 0.2), (0.6, 0.3)], False),  # two, and so theirs
        ([(0.0, -9.0), (0.1, -9.0), (0.5, 0.2), (0.6, 0.3), (1.5, 0.8)], True),  # and theirs again
        ([(0.0, -9.0), (0.5, 0.1), (0.9, -9.0), (1.0, -9.0)], False),  # a replacement fails first
        ([(0.0, -9.0), (NOTICED_WITHIN - 1, -9.0), (NOTICED_WITHIN + 1, 10.0)], False),
        ([(0.0, -9.0), (NOTICED_WITHIN, -9.0), (2 * NOTICED_WITHIN, -9.0)], True),
    ],
)
def test_what_a_fault_does_to_all_processes_that_were_there_is_one_failure(
    failures: list[tuple[float, float]], held: bool
) -> None:
    quarantine = Quarantine()
    for after, since in failures:
        quarantine.failed("gpu 0", "bad", NOW + after, since=NOW + since)
    assert (quarantine.hold("gpu 0") is not None) is held


def fail(quarantine: Quarantine, device: str, reason: str, now: float) -> Hold | None:
    """Have a process fail that was just made."""
    return quarantine.failed(device, reason, now, since=now)


def held() -> Quarantine:
    quarantine = Quarantine()
    holds = [fail(quarantine, "gpu 0", f"failure {n}", NOW + n) for n in range(4)]
    assert holds == [None, None, Hold("failure 2", NOW + 2 + DURATION), None]
    return quarantine


def test_devices_are_counted_apart() -> None:
    quarantine = held()
    fail(quarantine, "gpu 1", "bad", NOW)
    assert quarantine.hold("gpu 1") is None


def test_a_device_is_given_back_when_its_time_is_over_and_starts_anew() -> None:
    quarantine = held()
    assert quarantine.release(NOW + 1.9 + DURATION) == []
    assert quarantine.release(NOW + 2 + DURATION) == ["gpu 0"]
    assert quarantine.hold("gpu 0") is None
    assert fail(quarantine, "gpu 0", "again", NOW + 3 + DURATION) is None
    assert quarantine.release(NOW + 9 * DURATION) == []


def test_all_can_be_given_back_before() -> None:
    quarantine = held()
    assert quarantine.release(math.inf) == ["gpu 0"]
    assert quarantine.hold("gpu 0") is None
    assert fail(quarantine, "gpu 0", "again", NOW + 5) is None


STORIES = {
    "a worker that lost its GPU is replaced when it has gone": """
        lose_device 0    | draining1 idle1          | later
        gone_by_device 0 | spawning1 idle1          | retry 0
        boot 0           | idle1 idle1
        lose_device 0    | draining1 idle1          | later
        gone_by_device 0 | backoff idle1            | retry 0.5
        wait 0.5         | spawning1 idle1
    """,
    "a GPU in quarantine takes its slot along": """
        lose_device 0             | draining1 idle1 | later
        hold 0, gone_by_device 0  | - idle1         | held
        wait 1000                 | - idle1
        hold                      | spawning1 idle1
    """,
    "another worker of the same GPU drains": """
        lose_device 0                 | draining1 idle1     | later
        hold 0 1, gone_by_device 0    | - draining1         | held
        gone 1                        | - -                 | expected
        hold                          | spawning1 spawning1
    """,
    "one that waits for its next try does so no more": """
        lose_device 0    | draining1 idle1 | later
        gone_by_device 0 | spawning1 idle1 | retry 0
        fail_by_device 0 | backoff idle1   | retry 1
        hold 0           | - idle1
    """,
    "one that boots is killed": """
        crash 0    | spawning1 idle1   | retry 0
        spawned 0  | booting1 idle1
        hold 0     | killing1 idle1
        gone 0     | - idle1           | expected
    """,
    "a slot in quarantine is neither too many nor too few when the size changes": """
        hold 0     | draining1 idle1
        gone 0     | - idle1               | expected
        resize 3   | - idle1 spawning1
        boot 2     | - idle1 idle1
        resize 1   | - draining1 draining1
    """,
    "a stop ends it": """
        hold 0     | draining1 idle1
        gone 0     | - idle1          | expected
        stop       | - draining1
        gone 1     | - -              | expected
    """,
    "new code is tried in a slot that has a GPU": """
        hold 0     | draining1 idle1
        gone 0     | - idle1           | expected
        reload 2   | - idle1+spawning2
        boot 1     | - draining1+idle2 | current
    """,
    "new code that finds no slot with a GPU is not taken untried": """
        hold 0 1   | draining1 draining1
        gone 0     | - draining1          | expected
        gone 1     | - -                  | expected
        reload 2   | - -
        hold       | spawning2 spawning1
        boot 0     | idle2 spawning2      | current
    """,
    "code is not given up because a GPU failed": """
        reload 2                    | idle1+spawning2 idle1
        fail_by_device 0            | idle1+backoff idle1    | retry 0.5
        wait 1                      | idle1+spawning2 idle1
        fail_by_device 0            | idle1+backoff idle1    | retry 1
        wait 2                      | idle1+spawning2 idle1
        fail_by_device 0            | idle1+backoff idle1    | retry 2
        wait 3                      | idle1+spawning2 idle1
        fail_by_device 0            | idle1+backoff idle1    | retry 4
        wait 5                      | idle1+spawning2 idle1
        fail_by_device 0            | idle1+backoff idle1    | retry 8
        hold 0                      | draining1 idle1+spawning2
        boot 1                      | draining1 draining1+idle2    | current
    """,
}


@pytest.mark.parametrize("name", STORIES)
def test_a_story(name: str) -> None:
    Play.serving(2).tell(STORIES[name])


def test_a_start_is_not_given_up_because_a_gpu_failed() -> None:
    play = Play(2)
    play.act()
    for _ in range(6):
        assert play.happen("fail_by_device", "0").startswith("retry")
        play.now += 60
        play.act()
    play.tell("boot 1 | spawning1 idle1")


def test_a_slot_in_quarantine_is_retired() -> None:
    play = Play.serving(1)
    play.tell("""
        hold 0 | draining1
        gone 0 | -         | expected
    """)
    assert {seat.state for seat in play.table.seats} == {State.RETIRED}
    assert (play.table.wanted, play.table.ready, play.table.can_serve) == (1, 0, False)
    play.tell("""
        hold   | spawning1
        boot 0 | idle1
    """)
    assert play.table.can_serve
