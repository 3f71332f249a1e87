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


@dataclass(frozen=True)
class Lapse:
    """For how long the master has done nothing, and the processes that have `ended` meanwhile."""

    seconds: float = 0.0
    ended: frozenset[int] = frozenset()


NONE = Lapse()


def look(board: Scoreboard, now: float) -> Lapse:
    """Find out what the master does not say."""
    seconds = now - board.header.beat
    if not board.header.beat or seconds < STANDS_STILL_AFTER:
        return NONE
    pids = {row.pid for row in board.rows if row.state in HAS_PROCESS}
    return Lapse(seconds, frozenset(pid for pid in pids if pid and linux.has_ended(pid)))
