"""What the scoreboard does not show while the master does nothing: which processes have ended.

A master that is stopped, or hangs, reaps no processes and does not update the scoreboard. Then
whoever answers probes checks by itself whether the processes still exist. Otherwise the scoreboard
is enough: the master notices ends at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from obworker.supervisor import linux
from obworker.supervisor.alarm import TICK
from obworker.supervisor.scoreboard import Scoreboard
from obworker.supervisor.slots import HAS_PROCESS

# The loop runs at least once in a tick.
STANDS_STILL_AFTER = 2 * TICK
# Its longest legitimate wait is 10 s, for nvidia-smi.
HANGS_AFTER = 60.0


@dataclass(frozen=True)
class Lapse:
    """For how long the master has done nothing, and the processes that have `ended` meanwhile."""

    seconds: float = 0.0
    ended: frozenset[int] = frozenset()


NONE = Lapse()


def silence(board: Scoreboard, now: float) -> float:
    """Return for how long the master has done nothing; 0 before it has begun."""
    return now - board.header.beat if board.header.beat else 0.0


def look(board: Scoreboard, now: float) -> Lapse:
    """Check for ended processes if the master does nothing."""
    seconds = silence(board, now)
    if seconds < STANDS_STILL_AFTER:
        return NONE
    pids = {row.pid for row in board.rows if row.state in HAS_PROCESS}
    return Lapse(seconds, frozenset(pid for pid in pids if pid and linux.has_ended(pid)))
