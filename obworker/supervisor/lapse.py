"""What the scoreboard does not say while the master stands still: which processes have ended.

A master that is stopped, or that hangs, reaps nobody, and what it had written stays as it was. So
whoever tells others looks by itself then whether the processes are there. Until then the master's
word is enough: it hears of an end at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from obworker.supervisor import linux
from obworker.supervisor.alarm import TICK
from obworker.supervisor.scoreboard import Scoreboard
from obworker.supervisor.slots import HAS_PROCESS

# Its loop turns once in a tick at least.
STANDS_STILL_AFTER = 2 * TICK
# The longest that it has to wait is for nvidia-smi, 10 s.
HANGS_AFTER = 60.0


@dataclass(frozen=True)
class Lapse:
    """For how long the master has done nothing, and the processes that have `ended` meanwhile."""

    seconds: float = 0.0
    ended: frozenset[int] = frozenset()


NONE = Lapse()


def silence(board: Scoreboard, now: float) -> float:
    """Return for how long the master has done nothing; of one that has not begun, 0."""
    return now - board.header.beat if board.header.beat else 0.0


def look(board: Scoreboard, now: float) -> Lapse:
    """Find out what the master does not say."""
    seconds = silence(board, now)
    if seconds < STANDS_STILL_AFTER:
        return NONE
    pids = {row.pid for row in board.rows if row.state in HAS_PROCESS}
    return Lapse(seconds, frozenset(pid for pid in pids if pid and linux.has_ended(pid)))
