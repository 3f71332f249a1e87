"""The process table: starts, crashes, hangs, ends and sizes, told as stories."""

from __future__ import annotations

import math

import pytest
from table_play import Play

from obworker.supervisor.rollout import Outcome, Strategy
from obworker.supervisor.scoreboard import State
from obworker.supervisor.slots import Seat

STORIES: dict[str, tuple[int, str]] = {
    "a start": (
        2,
        """
        start     | spawning1 spawning1
        spawned 1 | spawning1 booting1
        ready 1   | spawning1 idle1
        boot 0    | idle1 idle1
        """,
    ),
    "a crash is made good at once": (
        2,
        """
        boot 0  | idle1 spawning1
        crash 0 | spawning1 spawning1 | retry 0
        """,
    ),
    "crashes in a row wait longer each time": (
        1,
        """
        boot 0   | idle1
        crash 0  | spawning1 | retry 0
        boot 0   | idle1
        crash 0  | backoff   | retry 0.5
        wait 0.4 | backoff
        wait 0.2 | spawning1
        boot 0   | idle1
        crash 0  | backoff   | retry 1
        wait 1   | spawning1
        boot 0   | idle1
        wait 59  | idle1
        crash 0  | backoff   | retry 2
        wait 2   | spawning1
        boot 0   | idle1
        wait 60  | idle1
        crash 0  | spawning1 | retry 0
        """,
    ),
    "each slot has failures of its own": (
        2,
        """
        boot 0  | idle1 spawning1
        boot 1  | idle1 idle1
        crash 0 | spawning1 idle1     | retry 0
        crash 1 | spawning1 spawning1 | retry 0
        """,
    ),
    "the fifth boot that fails ends the start": (
        1,
        """
        fail 0   | backoff   | retry 0.5
        wait 0.5 | spawning1
        fail 0   | backoff   | retry 1
        wait 1   | spawning1
        fail 0   | backoff   | retry 2
        wait 2   | spawning1
        fail 0   | backoff   | retry 4
        wait 4   | spawning1
        fail 0   | -         | gave up
        """,
    ),
    "failed boots of all slots count together": (
        3,
        """
        fail 0   | backoff spawning1 spawning1 | retry 0.5
        fail 1   | backoff backoff spawning1   | retry 0.5
        fail 2   | backoff backoff backoff     | retry 0.5
        wait 0.5 | spawning1 spawning1 spawning1
        fail 0   | backoff spawning1 spawning1 | retry 1
        spawned 2 | backoff spawning1 booting1
        fail 1   | - - killing1                | gave up
        gone 2   | - - -                       | expected
        """,
    ),
    "a boot that must fail again ends the start at once": (
        2,
        """
        fail 0 certain | - - | gave up
        """,
    ),
    "a boot that must fail again is tried for ever once something was ready": (
        2,
        """
        boot 0         | idle1 spawning1
        fail 1 certain | idle1 backoff   | retry 0.5
        wait 0.5       | idle1 spawning1
        fail 1 certain | idle1 backoff   | retry 1
        wait 1         | idle1 spawning1
        fail 1 no_room | idle1 backoff   | retry 2
        wait 2         | idle1 spawning1
        fail 1         | idle1 backoff   | retry 4
        wait 4         | idle1 spawning1
        fail 1         | idle1 backoff   | retry 8
        wait 8         | idle1 spawning1
        fail 1         | idle1 backoff   | retry 16
        wait 16        | idle1 spawning1
        fail 1         | idle1 backoff   | retry 30
        wait 30        | idle1 spawning1
        fail 1         | idle1 backoff   | retry 30
        """,
    ),
    "a mold that does not fork is given up": (
        1,
        """
        wait 9.9 | spawning1
        wait 0.1 | backoff
        wait 0.5 | spawning1
        """,
    ),
    "a boot that hangs shows its stacks, and is made to end": (
        1,
        """
        spawned 0 | booting1
        wait 99   | booting1
        wait 1    | dumping1
        wait 0.9  | dumping1
        wait 0.1  | aborting1
        wait 4.9  | aborting1
        wait 0.1  | killing1
        gone 0    | backoff   | retry 0.5
        """,
    ),
    "a boot is timed from the order, not from the fork": (
        1,
        """
        wait 9    | spawning1
        spawned 0 | booting1
        wait 90   | booting1
        wait 1    | dumping1
        """,
    ),
    "a worker whose loop stands still is replaced, but not before it is gone": (
        1,
        """
        boot 0    | idle1
        freeze 0  | idle1
        wait 29.9 | idle1
        wait 0.1  | dumping1
        wait 1    | aborting1
        gone 0    | spawning1 | retry 0
        """,
    ),
    "an idle worker whose loop turns is left alone": (
        1,
        """
        boot 0    | idle1
        wait 29   | idle1
        wait 29   | idle1
        wait 9999 | idle1
        """,
    ),
    "a request that is overdue has one more second, whatever the loop does": (
        1,
        """
        boot 0     | idle1
        freeze 0   | idle1
        begin 0 60 | busy1
        wait 60.9  | busy1
        wait 0.1   | dumping1
        wait 1     | aborting1
        wait 5     | killing1
        gone 0     | spawning1 | retry 0
        """,
    ),
    "a request without a deadline is never overdue": (
        1,
        """
        boot 0      | idle1
        freeze 0    | idle1
        begin 0 0   | busy1
        wait 999999 | busy1
        """,
    ),
    "a loop that a request held up has all its time when that is over": (
        1,
        """
        boot 0      | idle1
        freeze 0    | idle1
        begin 0 300 | busy1
        wait 200    | busy1
        finish 0    | idle1
        wait 29     | idle1
        wait 1      | dumping1
        """,
    ),
    "a worker that nothing ends is stuck, and its slot with it, until it ends": (
        2,
        """
        boot 0   | idle1 spawning1
        boot 1   | idle1 idle1
        freeze 0 | idle1 idle1
        wait 30  | dumping1 idle1
        wait 1   | aborting1 idle1
        wait 5   | killing1 idle1
        wait 29  | killing1 idle1
        wait 1   | stuck1 idle1
        wait 999 | stuck1 idle1
        crash 1  | stuck1 spawning1    | retry 0
        gone 0   | spawning1 spawning1 | retry 0
        """,
    ),
    "a worker that leaves is replaced at once": (
        1,
        """
        boot 0  | idle1
        leave 0 | draining1+spawning1 | 0
        boot 0  | draining1+idle1
        gone 0  | idle1               | expected
        """,
    ),
    "a worker that leaves time after time is replaced after a wait": (
        1,
        """
        boot 0   | idle1
        leave 0  | draining1+spawning1 | 0
        gone 0   | spawning1           | expected
        boot 0   | idle1
        leave 0  | draining1+backoff   | 0.5
        gone 0   | backoff             | expected
        wait 0.5 | spawning1
        boot 0   | idle1
        leave 0  | draining1+backoff   | 1
        wait 1   | draining1+spawning1
        boot 0   | draining1+idle1
        leave 0  | draining1+draining1 | later
        gone_all 0 | backoff
        """,
    ),
    "a worker that comes back to life is let finish": (
        1,
        """
        boot 0   | idle1
        freeze 0 | idle1
        wait 30  | dumping1
        revive 0 | draining1+spawning1 | 0
        boot 0   | draining1+idle1
        gone 0   | idle1               | expected
        """,
    ),
    "a boot that comes back to life has failed all the same": (
        1,
        """
        spawned 0 | booting1
        wait 100  | dumping1
        revive 0  | draining1+spawning1 | later
        gone 0    | spawning1           | retry 0.5
        """,
    ),
    "a worker that leaves after another one crashed is replaced after a wait": (
        1,
        """
        boot 0   | idle1
        crash 0  | spawning1         | retry 0
        boot 0   | idle1
        leave 0  | draining1+backoff | 0.5
        """,
    ),
    "a worker that leaves while its successor is on its way": (
        1,
        """
        boot 0    | idle1
        recycle 0 | idle1+spawning1
        leave 0   | draining1+spawning1 | 0
        """,
    ),
    "a worker that leaves when its successor has just come": (
        1,
        """
        boot 0                | idle1
        recycle 0             | idle1+spawning1
        boot 0, leave_older 0 | draining1+idle1 | 0
        gone 0                | idle1           | expected
        """,
    ),
    "a worker that leaves and hangs": (
        1,
        """
        boot 0  | idle1
        leave 0 | draining1+spawning1 | 0
        boot 0  | draining1+idle1
        wait 25 | killing1+idle1
        gone 0  | idle1               | expected
        """,
    ),
    "a crash in the second seat is made good there": (
        1,
        """
        boot 0    | idle1
        recycle 0 | idle1+spawning1
        boot 0    | draining1+idle1
        gone 0    | idle1     | expected
        crash 0   | spawning1 | retry 0
        boot 0    | idle1
        crash 0   | backoff   | retry 0.5
        wait 0.5  | spawning1
        """,
    ),
    "fewer workers: the slots with the highest numbers go": (
        3,
        """
        boot 0   | idle1 spawning1 spawning1
        boot 1   | idle1 idle1 spawning1
        boot 2   | idle1 idle1 idle1
        resize 1 | idle1 draining1 draining1
        gone 1   | idle1 - draining1         | expected
        resize 3 | idle1 spawning1 draining1+spawning1
        """,
    ),
    "fewer workers: the last that serves stands in for those that are to stay": (
        3,
        """
        boot 0   | idle1 spawning1 spawning1
        boot 1   | idle1 idle1 spawning1
        boot 2   | idle1 idle1 idle1
        crash 0  | spawning1 idle1 idle1     | retry 0
        boot 0   | idle1 idle1 idle1
        crash 0  | backoff idle1 idle1       | retry 0.5
        resize 1 | backoff draining1 idle1
        wait 0.5 | spawning1 draining1 idle1
        boot 0   | idle1 draining1 draining1
        """,
    ),
    "the last that serves stands in for one that cannot be killed": (
        2,
        """
        boot 0   | idle1 spawning1
        boot 1   | idle1 idle1
        freeze 0 | idle1 idle1
        wait 66  | dumping1 idle1
        wait 66  | aborting1 idle1
        wait 66  | killing1 idle1
        wait 66  | stuck1 idle1
        resize 1 | stuck1 idle1
        gone 0   | spawning1 idle1           | retry 0
        boot 0   | idle1 draining1
        """,
    ),
    "fewer workers while they come": (
        3,
        """
        spawned 1 | spawning1 booting1 spawning1
        resize 1  | spawning1 killing1 -
        gone 1    | spawning1 - -                | expected
        """,
    ),
    "a boot that was not wanted for a moment has not failed": (
        2,
        """
        spawned 1 | spawning1 booting1
        resize 1  | spawning1 killing1
        resize 2  | spawning1 killing1
        gone 1    | spawning1 spawning1 | expected
        """,
    ),
    "fewer workers while one waits": (
        2,
        """
        fail 1   | spawning1 backoff | retry 0.5
        resize 1 | spawning1 -
        resize 2 | spawning1 spawning1
        """,
    ),
    "no workers, and back": (
        2,
        """
        boot 0   | idle1 spawning1
        resize 0 | draining1 -
        gone 0   | - -        | expected
        wait 999 | - -
        resize 2 | spawning1 spawning1
        """,
    ),
    "a worker that crashes while it is not wanted is no news": (
        2,
        """
        boot 1             | spawning1 idle1
        resize 1, crash 1  | spawning1 -     | expected
        """,
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_of_a_table(story: str) -> None:
    size, lines = STORIES[story]
    play = Play(size)
    play.act()
    play.tell(lines)


def seat_of(play: Play) -> Seat:
    return play.table.slots[0].seats[0]


def test_the_start_is_not_settled_before_it_is_over() -> None:
    play = Play(2)
    for event in ("start", "boot 0"):
        play.happen(*event.split())
        play.act()
        assert not play.is_settled
    play.happen("boot", "1")
    assert play.is_settled
    assert (play.table.ready, play.table.wanted) == (2, 2)


def test_a_row_without_a_deadline_may_say_so_by_infinity_too() -> None:
    play = Play(1)
    play.act()
    play.happen("boot", "0")
    for deadline in (0.0, math.inf):
        play.table.observe(seat_of(play), 0.0, in_flight=1, deadline=deadline, beat=0.0)
        assert not seat_of(play).is_late(1e12)


def test_a_canary_that_cannot_be_killed_drops_the_candidate() -> None:
    play = Play(1)
    play.act()
    play.tell("""
        boot 0    | idle1
        reload 2  | idle1+spawning2
        spawned 0 | idle1+booting2
        wait 100  | idle1+dumping2
        wait 1    | idle1+aborting2
        wait 5    | idle1+killing2
    """)
    play.now += 30
    seat = play.seat("0", State.KILLING)
    assert play.table.stick(seat).outcome is Outcome.DROPPED
    assert play.table.rollout.candidate is None
    play.tell("start | idle1+stuck2")


def test_a_reload_lets_no_slot_lose_a_worker_before_the_next_is_ready() -> None:
    play = Play(3, Strategy.AUTO)
    play.act()
    for slot in "012":
        play.happen("boot", slot)
        play.act()
    play.happen("reload", "2")
    while not play.is_settled:
        play.act()
        assert play.table.ready == 3
        for seat in play.table.seats:
            if seat.state in (State.SPAWNING, State.DRAINING):
                play.happen("boot" if seat.state is State.SPAWNING else "gone", str(seat.slot))
    assert play.picture == "idle2 idle2 idle2"
