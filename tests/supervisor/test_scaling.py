"""To how many workers a pause, a reload and one that fails go back."""

from __future__ import annotations

import pytest

from obworker.supervisor.scaling import Scaling
from obworker.supervisor.slots import Timeouts
from obworker.supervisor.table import Table

FAIL = "fail"
"""The reload fails."""


@pytest.mark.parametrize(
    ("events", "size"),
    [
        (["pause"], 0),
        (["pause", "pause", "reload"], 4),
        (["pause", "scale 1"], 1),
        (["pause", "scale 1", "pause", "reload"], 1),
        (["reload"], 4),
        (["reload 2"], 2),
        (["reload 2", FAIL], 4),
        (["scale 3", "reload 2", FAIL], 3),
        (["pause", "reload 2", FAIL], 4),
        (["reload 2", "scale 5", FAIL], 5),
        (["reload 2", "pause", FAIL], 0),
        (["reload 2", "again 3", FAIL], 4),
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
        elif what == FAIL:
            scaling.undo_reload()
        else:
            if what == "reload":  # and not one that takes the place of another
                scaling.begin_reload()
            scaling.reload(int(number) if number else None)
    assert table.wanted == size
