"""How many workers there are after a pause, a reload and one that never comes to serve."""

from __future__ import annotations

import pytest

from obworker.supervisor.scaling import Scaling
from obworker.supervisor.slots import Timeouts
from obworker.supervisor.table import Table

DONE = "done"
"""The code of the reload serves."""


@pytest.mark.parametrize(
    ("events", "size"),
    [
        (["pause"], 0),
        (["pause", "pause", "reload"], 4),
        (["pause", "scale 1"], 1),
        (["pause", "scale 1", "pause", "reload"], 1),
        (["reload"], 4),
        (["reload", DONE], 4),
        (["reload 2"], 4),
        (["reload 2", DONE], 2),
        (["scale 3", "reload 2"], 3),
        (["scale 3", "reload", DONE], 3),
        (["pause", "reload 2"], 4),
        (["reload 2", "scale 5", DONE], 5),
        (["reload 2", "pause"], 0),
        (["reload 2", "pause", DONE], 0),
        (["reload 2", "pause", DONE, "reload"], 2),
        (["reload 2", "reload 3", DONE], 3),
        (["reload 2", "reload", DONE], 4),
    ],
)
def test_what_was_asked_for_leads_to_so_many(events: list[str], size: int) -> None:
    table = Table(4, Timeouts(), lambda: 0.5)
    scaling = Scaling(table)
    for event in events:
        what, _, number = event.partition(" ")
        if what == "pause":
            scaling.pause()
        elif what == "scale":
            scaling.scale(int(number))
        elif what == DONE:
            scaling.reloaded()
        else:
            scaling.reload(int(number) if number else None)
    assert table.wanted == size
