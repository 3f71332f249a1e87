"""What is kept of generations that came to nothing."""

from __future__ import annotations

import selectors
import weakref
from types import SimpleNamespace
from typing import Any

from obworker.supervisor.generations import Generations
from obworker.supervisor.slots import Timeouts
from obworker.supervisor.table import Table


class Direct:
    """A plan of which only this is looked at."""

    settings = SimpleNamespace(preload="off")


def ignore(*_: object) -> None:
    pass


def test_of_reloads_that_fail_one_after_another_only_the_last_is_kept() -> None:
    table = Table(1, Timeouts(), lambda: 0.5)
    first: Any = Direct()
    descriptors: Any = None
    table.rollout.ready(1)
    with selectors.DefaultSelector() as selector:
        generations = Generations(
            first,
            table,
            descriptors,
            selector,
            on_report=ignore,
            on_fatal=ignore,
            on_reloaded=ignore,
        )
        kept = []
        for _ in range(3):
            plan: Any = Direct()
            kept.append(weakref.ref(plan))
            generations.reload(plan, 0.0, ignore)
            del plan
            generations.fail_reload("its code does not work")
    assert [plan() is not None for plan in kept] == [False, False, True]
    assert table.rollout.current == 1
