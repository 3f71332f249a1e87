"""Which code each slot serves: reloads, turns and recycling, told as stories."""

from __future__ import annotations

import pytest
from table_play import Play

RELOADS = {
    1: """
        reload 2  | idle1+spawning2
        spawned 0 | idle1+booting2
        ready 0   | draining1+idle2  | current
        gone 0    | idle2            | expected
    """,
    2: """
        reload 2  | idle1+spawning2 idle1
        spawned 0 | idle1+booting2 idle1
        ready 0   | draining1+idle2 idle1 | current
        gone 0    | idle2 idle1+spawning2 | expected
        boot 1    | idle2 draining1+idle2
        gone 1    | idle2 idle2           | expected
    """,
    4: """
        reload 2  | idle1+spawning2 idle1 idle1 idle1
        boot 0    | draining1+idle2 idle1 idle1 idle1 | current
        wait 20   | draining1+idle2 idle1 idle1 idle1
        gone 0    | idle2 idle1+spawning2 idle1 idle1 | expected
        boot 1    | idle2 draining1+idle2 idle1 idle1
        gone 1    | idle2 idle2 idle1+spawning2 idle1 | expected
        boot 2    | idle2 idle2 draining1+idle2 idle1
        gone 2    | idle2 idle2 idle2 idle1+spawning2 | expected
        boot 3    | idle2 idle2 idle2 draining1+idle2
        gone 3    | idle2 idle2 idle2 idle2           | expected
    """,
}


@pytest.mark.parametrize("size", RELOADS)
def test_a_reload_replaces_slot_by_slot_with_one_process_too_many_at_most(size: int) -> None:
    play = Play.serving(size)
    *lines, last = RELOADS[size].strip().splitlines()
    for line in lines:
        play.tell(line)
        assert not play.is_settled
        assert not play.table.rollout.is_complete
    play.tell(last)
    assert play.is_settled
    assert play.table.rollout.is_complete
    assert play.table.rollout.current == 2


def test_the_order_after_the_canary_is_that_of_age() -> None:
    play = Play.serving(2)
    play.tell("""
        reload 2 | idle1+spawning2 idle1
        boot 0   | draining1+idle2 idle1 | current
        crash 1  | draining1+idle2 spawning2 | retry 0
        boot 1   | draining1+idle2 idle2
        gone 0   | idle2 idle2           | expected
    """)
    assert play.is_settled


# stories: the slots there are, and what happens once they serve generation 1
STORIES: dict[str, tuple[int, str]] = {
    "a canary that must fail again ends the reload at once": (
        2,
        """
        reload 2       | idle1+spawning2 idle1
        fail 0 certain | idle1 idle1           | dropped
        """,
    ),
    "a canary that fails five times ends the reload": (
        2,
        """
        reload 2 | idle1+spawning2 idle1
        fail 0   | idle1+backoff idle1   | retry 0.5
        wait 0.5 | idle1+spawning2 idle1
        fail 0   | idle1+backoff idle1   | retry 1
        wait 1   | idle1+spawning2 idle1
        fail 0   | idle1+backoff idle1   | retry 2
        wait 2   | idle1+spawning2 idle1
        fail 0   | idle1+backoff idle1   | retry 4
        wait 4   | idle1+spawning2 idle1
        fail 0   | idle1 idle1           | dropped
        """,
    ),
    "a canary that is killed is tried again": (
        1,
        """
        reload 2 | idle1+spawning2
        fail 0   | idle1+backoff    | retry 0.5
        wait 0.5 | idle1+spawning2
        boot 0   | draining1+idle2  | current
        gone 0   | idle2            | expected
        """,
    ),
    "a canary that hangs is killed beside the old worker, and tried again": (
        1,
        """
        reload 2  | idle1+spawning2
        spawned 0 | idle1+booting2
        wait 100  | idle1+dumping2
        gone 0    | idle1+backoff    | retry 0.5
        wait 0.5  | idle1+spawning2
        """,
    ),
    "a slot that holds what cannot be killed takes no turn from others": (
        2,
        """
        recycle 0 | idle1+spawning1 idle1
        spawned 0 | idle1+booting1 idle1
        wait 100  | idle1+dumping1 idle1
        wait 1    | idle1+aborting1 idle1
        wait 5    | idle1+killing1 idle1
        wait 30   | idle1+stuck1 idle1
        recycle 1 | idle1+stuck1 idle1+spawning1
        """,
    ),
    "a canary that hangs and comes back to life has failed all the same": (
        1,
        """
        reload 2  | idle1+spawning2
        spawned 0 | idle1+booting2
        wait 100  | idle1+dumping2
        revive 0  | idle1+draining2 | later
        gone 0    | idle1+backoff   | retry 0.5
        """,
    ),
    "a canary that cannot be killed ends the reload, and the next one tries another slot": (
        2,
        """
        reload 2  | idle1+spawning2 idle1
        spawned 0 | idle1+booting2 idle1
        wait 100  | idle1+dumping2 idle1
        wait 1    | idle1+aborting2 idle1
        wait 5    | idle1+killing2 idle1
        wait 30   | idle1+stuck2 idle1
        wait 99   | idle1+stuck2 idle1
        reload 3  | idle1+stuck2 idle1+spawning3
        boot 1    | idle1+stuck2 draining1+idle3 | current
        gone 1    | idle1+stuck2 idle3           | expected
        gone 0    | idle1+spawning3 idle3        | expected
        """,
    ),
    "the newest reload wins while the canary is asked for": (
        1,
        """
        reload 2 | idle1+spawning2
        reload 3 | idle1+spawning3
        boot 0   | draining1+idle3 | current
        """,
    ),
    "the newest reload wins while the canary boots": (
        1,
        """
        reload 2  | idle1+spawning2
        spawned 0 | idle1+booting2
        reload 3  | idle1+killing2
        gone 0    | idle1+spawning3 | expected
        boot 0    | draining1+idle3 | current
        """,
    ),
    "the newest reload wins while the canary waits": (
        1,
        """
        reload 2 | idle1+spawning2
        fail 0   | idle1+backoff   | retry 0.5
        reload 3 | idle1+spawning3
        """,
    ),
    "the newest reload wins while the old worker drains": (
        1,
        """
        reload 2 | idle1+spawning2
        boot 0   | draining1+idle2 | current
        reload 3 | draining1+idle2
        gone 0   | idle2+spawning3 | expected
        boot 0   | draining2+idle3 | current
        """,
    ),
    "the newest reload wins while the others follow, which end what they began": (
        3,
        """
        reload 2  | idle1+spawning2 idle1 idle1
        boot 0    | draining1+idle2 idle1 idle1 | current
        gone 0    | idle2 idle1+spawning2 idle1 | expected
        reload 3  | idle2 idle1+spawning2 idle1
        boot 1    | idle2 draining1+idle2 idle1
        gone 1    | idle2+spawning3 idle2 idle1 | expected
        boot 0    | draining2+idle3 idle2 idle1 | current
        gone 0    | idle3 idle2 idle1+spawning3 | expected
        boot 2    | idle3 idle2 draining1+idle3
        gone 2    | idle3 idle2+spawning3 idle3 | expected
        boot 1    | idle3 draining2+idle3 idle3
        gone 1    | idle3 idle3 idle3           | expected
        """,
    ),
    "the newest reload has five tries of its own": (
        1,
        """
        reload 2 | idle1+spawning2
        fail 0   | idle1+backoff   | retry 0.5
        wait 0.5 | idle1+spawning2
        fail 0   | idle1+backoff   | retry 1
        reload 3 | idle1+spawning3
        fail 0   | idle1+backoff   | retry 0.5
        wait 0.5 | idle1+spawning3
        fail 0   | idle1+backoff   | retry 1
        wait 1   | idle1+spawning3
        fail 0   | idle1+backoff   | retry 2
        wait 2   | idle1+spawning3
        fail 0   | idle1+backoff   | retry 4
        wait 4   | idle1+spawning3
        fail 0   | idle1           | dropped
        """,
    ),
    "a reload that is called off while the canary boots": (
        1,
        """
        reload 2  | idle1+spawning2
        spawned 0 | idle1+booting2
        drop      | idle1+killing2
        gone 0    | idle1           | expected
        """,
    ),
    "a reload that is called off while the canary waits": (
        1,
        """
        reload 2 | idle1+spawning2
        fail 0   | idle1+backoff   | retry 0.5
        drop     | idle1
        """,
    ),
    "a reload while a slot is in a crash loop tries new code at once, there or elsewhere": (
        2,
        """
        crash 0  | spawning1 idle1      | retry 0
        boot 0   | idle1 idle1
        crash 0  | backoff idle1        | retry 0.5
        reload 2 | spawning2 idle1
        fail 0   | backoff idle1        | retry 0.5
        wait 0.5 | spawning2 idle1
        crash 1  | spawning2 spawning1  | retry 0
        boot 1   | spawning2 idle1
        crash 1  | spawning2 backoff    | retry 0.5
        boot 0   | idle2 spawning2      | current
        boot 1   | idle2 idle2
        """,
    ),
    "new code does not wait for what the old one did": (
        1,
        """
        crash 0  | spawning1 | retry 0
        fail 0   | backoff   | retry 1
        wait 1   | spawning1
        spawned 0 | booting1
        reload 2 | booting1
        fail 0   | spawning2 | retry 0
        """,
    ),
    "a crash of the old code does not wait for what code that came to nothing did": (
        1,
        """
        crash 0  | spawning1       | retry 0
        boot 0   | idle1
        reload 2 | idle1+spawning2
        fail 0   | idle1+backoff   | retry 0.5
        drop     | idle1
        crash 0  | backoff         | retry 0.5
        """,
    ),
    "an old worker that crashes before the commit is replaced by the canary": (
        1,
        """
        reload 2  | idle1+spawning2
        spawned 0 | idle1+booting2
        crash 0   | booting2         | retry 0
        ready 0   | idle2            | current
        """,
    ),
    "an old worker that crashes before the commit is replaced by old code elsewhere": (
        2,
        """
        reload 2 | idle1+spawning2 idle1
        crash 1  | idle1+spawning2 spawning1 | retry 0
        boot 1   | idle1+spawning2 idle1
        boot 0   | draining1+idle2 idle1     | current
        """,
    ),
    "an old worker that boots elsewhere at the commit gives way to new code": (
        2,
        """
        reload 2  | idle1+spawning2 idle1
        crash 1   | idle1+spawning2 spawning1 | retry 0
        spawned 1 | idle1+spawning2 booting1
        boot 0    | draining1+idle2 killing1  | current
        gone 1    | draining1+idle2 spawning2 | expected
        """,
    ),
    "an old worker that crashes after the commit is replaced by new code at once": (
        2,
        """
        crash 1  | idle1 spawning1       | retry 0
        boot 1   | idle1 idle1
        crash 1  | idle1 backoff         | retry 0.5
        wait 0.5 | idle1 spawning1
        boot 1   | idle1 idle1
        reload 2 | idle1+spawning2 idle1
        boot 0   | draining1+idle2 idle1 | current
        crash 1  | draining1+idle2 spawning2 | retry 0
        """,
    ),
    "a slot that fails while it follows lets the next one have its turn": (
        3,
        """
        reload 2 | idle1+spawning2 idle1 idle1
        boot 0   | draining1+idle2 idle1 idle1 | current
        gone 0   | idle2 idle1+spawning2 idle1 | expected
        fail 1   | idle2 idle1+backoff idle1+spawning2 | retry 0.5
        wait 0.5 | idle2 idle1+backoff idle1+spawning2
        boot 2   | idle2 idle1+backoff draining1+idle2
        gone 2   | idle2 idle1+spawning2 idle2 | expected
        """,
    ),
    "a mold that is made anew continues the generation: nobody is replaced": (
        2,
        """
        forget 1   | idle1 idle1
        crash 0    | backoff idle1   | retry 0
        continue 2 | spawning2 idle1
        boot 0     | idle2 idle1
        crash 1    | idle2 spawning2 | retry 0
        boot 1     | idle2 idle2
        """,
    ),
    "what the old mold still forked is as good": (
        1,
        """
        crash 0    | spawning1 | retry 0
        spawned 0  | booting1
        continue 2 | booting1
        ready 0    | idle1
        """,
    ),
    "a reload in which all workers are let go and come back": (
        2,
        """
        reload 2  | idle1+spawning2 idle1
        spawned 0 | idle1+booting2 idle1
        resize 0  | draining1+killing2 draining1
        resize 2  | draining1+killing2 draining1+spawning1
        boot 1    | draining1+killing2 draining1+idle1
        """,
    ),
    "a reload while there are no workers": (
        1,
        """
        resize 0 | draining1
        gone 0   | -         | expected
        reload 2 | -
        resize 1 | spawning2
        boot 0   | idle2 | current
        """,
    ),
    "a reload while there are no workers that does not work when they come back": (
        2,
        """
        resize 0       | draining1 draining1
        gone 0         | - draining1         | expected
        gone 1         | - -                 | expected
        reload 2       | - -
        resize 2       | spawning2 spawning1
        boot 1         | spawning2 idle1
        fail 0 certain | spawning1 idle1     | dropped
        """,
    ),
    "a reload while no slot can try it, as each has what cannot be killed": (
        1,
        """
        recycle 0      | idle1+spawning1
        spawned 0      | idle1+booting1
        wait 100       | idle1+dumping1
        wait 1         | idle1+aborting1
        wait 5         | idle1+killing1
        wait 30        | idle1+stuck1
        reload 2       | idle1+stuck1
        gone 0         | idle1+spawning2     | retry 0
        fail 0 certain | idle1+spawning1     | dropped
        """,
    ),
    "recycling takes turns, the oldest first": (
        2,
        """
        recycle 1 | idle1 idle1+spawning1
        recycle 0 | idle1 idle1+spawning1
        boot 1    | idle1 draining1+idle1
        gone 1    | idle1+spawning1 idle1 | expected
        boot 0    | draining1+idle1 idle1
        recycle 1 | draining1+idle1 idle1
        gone 0    | idle1 idle1+spawning1 | expected
        """,
    ),
    "a reload waits for the slot that is recycled, and takes the others with it": (
        2,
        """
        recycle 1 | idle1 idle1+spawning1
        reload 2  | idle1 idle1+spawning1
        recycle 0 | idle1 idle1+spawning1
        boot 1    | idle1 draining1+idle1
        gone 1    | idle1+spawning2 idle1 | expected
        boot 0    | draining1+idle2 idle1 | current
        """,
    ),
    "code that was given up and becomes ready before it is killed does not oust the old worker": (
        1,
        """
        reload 2  | idle1+spawning2
        spawned 0 | idle1+booting2
        drop, ready 0 | idle1+draining2
        gone 0    | idle1            | expected
        """,
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_of_surge(story: str) -> None:
    size, lines = STORIES[story]
    Play.serving(size).tell(lines)


FIRST_STARTS = {
    "a reload while the first code is asked for takes its place": """
        reload 2 | spawning2 spawning2
        boot 0   | idle2 spawning2
        boot 1   | idle2 idle2
    """,
    "a reload while the first code boots takes its place": """
        spawned 0 | booting1 spawning1
        spawned 1 | booting1 booting1
        reload 2  | killing1 killing1
        gone 0    | spawning2 killing1  | expected
        boot 0    | idle2 killing1
        gone 1    | idle2 spawning2     | expected
    """,
    "a reload while the first code fails does not wait, and starts to count anew": """
        fail 0   | backoff spawning1   | retry 0.5
        fail 1   | backoff backoff     | retry 0.5
        reload 2 | spawning2 spawning2
        fail 0   | backoff spawning2   | retry 1
        fail 1   | backoff backoff     | retry 1
        wait 1   | spawning2 spawning2
        fail 0   | backoff spawning2   | retry 2
        fail 1   | backoff backoff     | retry 2
        wait 2   | spawning2 spawning2
        fail 0   | - -        | gave up
    """,
    "a reload when one slot of the first is ready is an ordinary one": """
        boot 0   | idle1 spawning1
        reload 2 | idle1+spawning2 spawning1
        boot 1   | idle1+spawning2 idle1
        boot 0   | draining1+idle2 idle1 | current
    """,
}


@pytest.mark.parametrize("story", FIRST_STARTS)
def test_of_a_reload_during_the_first_start(story: str) -> None:
    play = Play(2)
    play.act()
    play.tell(FIRST_STARTS[story])
