"""Makes scoreboards for tests, with what a master and its workers would write into them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from obworker.supervisor.scoreboard import Phase, Scoreboard, State

NOW = 1000.0


@contextmanager
def scoreboard(slots: int = 0, phase: Phase = Phase.SERVING, **header: Any) -> Iterator[Scoreboard]:
    """Make the scoreboard of a service that wants a worker in each of `slots` slots."""
    board = Scoreboard.create()
    board.header.slots = board.header.wanted = slots
    board.header.phase, board.header.min_ready = phase, 1
    for name, value in header.items():
        if isinstance(value, str):
            board.header.write_text(name, value)
        else:
            setattr(board.header, name, value)
    yield board
    os.close(board.descriptor)


def fill(board: Scoreboard, slot: int, seat: int, state: State, **fields: Any) -> None:
    """Write a process in this state into a seat."""
    row = board.seat(slot, seat)
    row.state = state
    for name, value in fields.items():
        if isinstance(value, str):
            row.write_text(name, value)
        else:
            setattr(row, name, value)
