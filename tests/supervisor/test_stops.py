"""The process table told to stop: whatever it is in the middle of, it comes to an end."""

from __future__ import annotations

import pytest
from table_play import Play

# stories: how it was when the stop came, and what followed
STOPS = {
    "from the start": ("", "stop | -"),
    "while it is asked for": ("start | spawning1", "stop | -"),
    "while it boots": (
        "spawned 0 | booting1",
        """
        stop   | killing1
        gone 0 | -        | expected
        """,
    ),
    "while it serves": (
        "boot 0 | idle1",
        """
        stop   | draining1
        gone 0 | -         | expected
        """,
    ),
    "while it serves, and crashes at once": ("boot 0 | idle1", "stop, crash 0 | - | expected"),
    "while it has a request that does not end": (
        """
        boot 0    | idle1
        begin 0 0 | busy1
        """,
        """
        stop      | draining1
        wait 24.9 | draining1
        wait 0.1  | killing1
        gone 0    | -         | expected
        """,
    ),
    "while it leaves": (
        """
        boot 0  | idle1
        leave 0 | draining1+spawning1 | 0
        """,
        """
        stop   | draining1
        gone 0 | -         | expected
        """,
    ),
    "while two serve": (
        "boot 0 | idle1",
        """
        recycle 0     | idle1+spawning1
        spawned 0     | idle1+booting1
        ready 0, stop | draining1+draining1
        gone_all 0    | -
        """,
    ),
    "while it shows its stacks": (
        """
        boot 0   | idle1
        freeze 0 | idle1
        wait 30  | dumping1
        """,
        """
        stop   | dumping1
        wait 1 | aborting1
        wait 5 | killing1
        gone 0 | -        | expected
        """,
    ),
    "while it waits": ("fail 0 | backoff | retry 0.5", "stop | -"),
    "and cannot be killed": (
        "spawned 0 | booting1",
        """
        stop    | killing1
        wait 30 | stuck1
        """,
    ),
    "while a reload tries its canary": (
        "boot 0 | idle1",
        """
        reload 2  | idle1+spawning2
        spawned 0 | idle1+booting2
        stop      | draining1+killing2
        gone_all 0 | -
        """,
    ),
    "a second time": (
        "boot 0 | idle1",
        """
        stop   | draining1
        stop   | draining1
        gone 0 | -         | expected
        stop   | -
        """,
    ),
}


@pytest.mark.parametrize("story", STOPS)
def test_a_stop(story: str) -> None:
    before, after = STOPS[story]
    play = Play(1)
    if before:
        play.act()
        play.tell(before)
    was_over = play.table.is_over
    play.tell(after)
    assert (was_over, play.table.is_over, play.left) == (False, True, None)
