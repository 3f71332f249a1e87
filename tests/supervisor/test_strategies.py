"""How a worker is replaced, by surge, by replacement and by whichever there is room for."""

from __future__ import annotations

import pytest
from table_play import Play

from obworker.supervisor.rollout import Strategy

# stories of two slots
REPLACE = {
    "the old worker goes first": """
        reload 2 | draining1 idle1
        gone 0   | spawning2 idle1 | expected
        boot 0   | idle2 draining1 | current
        gone 1   | idle2 spawning2 | expected
        boot 1   | idle2 idle2
    """,
    "a canary that must fail again gives its place back to the old code": """
        reload 2       | draining1 idle1
        gone 0         | spawning2 idle1 | expected
        fail 0 certain | spawning1 idle1 | dropped
        boot 0         | idle1 idle1
    """,
    "nobody else goes while one fails": """
        reload 2  | draining1 idle1
        gone 0    | spawning2 idle1 | expected
        boot 0    | idle2 draining1 | current
        recycle 0 | idle2 draining1
        gone 1    | idle2 spawning2 | expected
        fail 1    | idle2 backoff   | retry 0.5
        wait 0.5  | idle2 spawning2
        fail 1    | idle2 backoff   | retry 1
        wait 1    | idle2 spawning2
        boot 1    | draining2 idle2
    """,
    "a slot that cannot be filled with old code does not hold up the new one": """
        recycle 1          | idle1 draining1
        forget 1, gone 1   | idle1 -             | expected
        reload 2           | draining1 -
        gone 0             | spawning2 -         | expected
        boot 0             | idle2 spawning2     | current
    """,
    "nobody goes while nothing can come": """
        forget 1  | idle1 idle1
        recycle 1 | idle1 idle1
        mold 1    | idle1 draining1
    """,
    "who leaves is replaced when it is gone": """
        leave 0 | draining1 idle1 | later
        gone 0  | spawning1 idle1 | retry 0
        boot 0  | idle1 idle1
        leave 0 | draining1 idle1 | later
        gone 0  | backoff idle1   | retry 0.5
    """,
    "the newest reload wins while the old worker drains": """
        reload 2 | draining1 idle1
        reload 3 | draining1 idle1
        gone 0   | spawning3 idle1 | expected
    """,
    "a slot with a worker that does not die keeps the other one, and holds up nobody": """
        leave 0   | draining1 idle1       | later
        wait 25   | killing1 idle1
        wait 30   | stuck1 idle1
        recycle 1 | stuck1 draining1
        gone 1    | stuck1 spawning1      | expected
    """,
    "a worker that does not die ends no reload": """
        reload 2 | draining1 idle1
        wait 25  | killing1 idle1
        wait 30  | stuck1 draining1
        gone 1   | stuck1 spawning2 | expected
        boot 1   | stuck1 idle2 | current
        gone 0   | spawning2 idle2 | expected
    """,
}


def test_a_reload_is_done_without_a_worker_that_does_not_die() -> None:
    play = Play.serving(2, Strategy.REPLACE)
    play.tell("""
        reload 2 | draining1 idle1
        wait 25  | killing1 idle1
        wait 30  | stuck1 draining1
        gone 1   | stuck1 spawning2 | expected
    """)
    assert not play.table.rollout.is_complete
    play.tell("boot 1 | stuck1 idle2 | current")
    assert play.table.rollout.is_complete


@pytest.mark.parametrize("story", REPLACE)
def test_of_replacement(story: str) -> None:
    Play.serving(2, Strategy.REPLACE).tell(REPLACE[story])


def test_replacement_of_a_single_worker_leaves_nobody_for_a_while() -> None:
    Play.serving(1, Strategy.REPLACE).tell("""
        reload 2 | draining1
        gone 0   | spawning2 | expected
        boot 0   | idle2     | current
    """)


AUTO: dict[str, tuple[int, str]] = {
    "two do not fit: from then on the old worker goes first, until the next reload": (
        2,
        """
        reload 2       | idle1+spawning2 idle1
        fail 0 no_room | draining1 idle1       | yielded
        gone 0         | spawning2 idle1       | expected
        boot 0         | idle2 draining1       | current
        gone 1         | idle2 spawning2       | expected
        boot 1         | idle2 idle2
        recycle 0      | draining2 idle2
        gone 0         | spawning2 idle2       | expected
        boot 0         | idle2 idle2
        reload 3       | idle2+spawning3 idle2
        """,
    ),
    "one does not fit either: the reload has failed": (
        2,
        """
        reload 2       | idle1+spawning2 idle1
        fail 0 no_room | draining1 idle1       | yielded
        gone 0         | spawning2 idle1       | expected
        fail 0 no_room | spawning1 idle1       | dropped
        boot 0         | idle1 idle1
        recycle 0      | idle1+spawning1 idle1
        """,
    ),
    "two do not fit, and a reload has failed for another reason: the old one still goes first": (
        2,
        """
        recycle 0      | idle1+spawning1 idle1
        fail 0 no_room | draining1 idle1       | yielded
        gone 0         | spawning1 idle1       | expected
        boot 0         | idle1 idle1
        reload 2       | idle1+spawning2 idle1
        fail 0 certain | idle1 idle1           | dropped
        recycle 1      | idle1 draining1
        """,
    ),
    "nobody else serves: the reload has failed": (
        1,
        """
        reload 2       | idle1+spawning2
        fail 0 no_room | idle1           | dropped
        """,
    ),
    "nobody else serves at the moment: likewise": (
        2,
        """
        crash 1        | idle1 spawning1           | retry 0
        reload 2       | idle1+spawning2 spawning1
        fail 0 no_room | idle1 spawning1           | dropped
        """,
    ),
    "nobody else serves any more: the new worker tries to come first": (
        2,
        """
        reload 2       | idle1+spawning2 idle1
        fail 0 no_room | draining1 idle1       | yielded
        gone 0         | spawning2 idle1       | expected
        spawned 0      | booting2 idle1
        crash 1        | booting2 spawning1    | retry 0
        boot 1         | booting2 idle1
        ready 0        | idle2 draining1       | current
        gone 1         | idle2 spawning2       | expected
        recycle 0      | idle2 spawning2
        fail 1         | idle2 backoff         | retry 1
        resize 1       | idle2+spawning2 -
        fail 0 no_room | idle2+backoff -       | retry 0.5
        """,
    ),
    "a new worker that comes already is waited for when others serve again": (
        2,
        """
        recycle 1      | idle1 idle1+spawning1
        fail 1 no_room | idle1 draining1           | yielded
        gone 1         | idle1 spawning1           | expected
        boot 1         | idle1 idle1
        crash 0        | spawning1 idle1           | retry 0
        recycle 1      | spawning1 idle1+spawning1
        boot 0         | idle1 idle1+spawning1
        boot 1         | idle1 draining1+idle1
        """,
    ),
    "a recycled worker has no room beside it": (
        2,
        """
        recycle 1      | idle1 idle1+spawning1
        fail 1 no_room | idle1 draining1       | yielded
        gone 1         | idle1 spawning1       | expected
        """,
    ),
    "who waited for a try beside the old worker does not make it wait when that goes first": (
        3,
        """
        recycle 2      | idle1 idle1 idle1+spawning1
        fail 2         | idle1 idle1 idle1+backoff   | retry 0.5
        recycle 1      | idle1 idle1+spawning1 idle1+backoff
        fail 1 no_room | idle1 draining1 idle1       | yielded
        gone 1         | idle1 spawning1 idle1       | expected
        boot 1         | idle1 idle1 draining1
        gone 2         | idle1 idle1 spawning1       | expected
        """,
    ),
    "there is no room at the first start: it is tried again": (
        1,
        """
        crash 0        | spawning1 | retry 0
        fail 0 no_room | backoff   | retry 1
        """,
    ),
}


@pytest.mark.parametrize("story", AUTO)
def test_of_surge_that_may_fall_back_to_replacement(story: str) -> None:
    size, lines = AUTO[story]
    Play.serving(size, Strategy.AUTO).tell(lines)
