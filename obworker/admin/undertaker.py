"""What has to be done when the master was killed: let nothing that it kept alive outlive it.

Workers die with the master by themselves (prctl(2), PR_SET_PDEATHSIG), but not what they started,
and a start.sh knows nothing of that. Each leads a session, and the scoreboard still says which, for
its pages are there as long as somebody has them mapped.
"""

from __future__ import annotations

import logging
import time

from obworker.supervisor import linux
from obworker.supervisor.scoreboard import Scoreboard
from obworker.supervisor.slots import HAS_PROCESS

logger = logging.getLogger("obworker.admin")

TIMEOUT = 1.0
INTERVAL = 0.02


def groups(board: Scoreboard) -> set[int]:
    """Return the process groups of the sessions that live, as far as the master had written."""
    pids = {row.pid for row in board.rows if row.state in HAS_PROCESS}
    leaders = {pid for pid in (*pids, *board.header.mold_pids) if pid}
    return leaders | linux.groups_of(leaders)


def bury(board: Scoreboard) -> None:
    """Kill every group until none is left.

    More than once, for a process that is just being forked gets no signal. Not for ever: a member
    may sleep in the kernel, or have ended and nobody reaps it.
    """
    left = {group for group in groups(board) if linux.group_exists(group)}
    logger.error("the master is gone; killing the %d process groups it left", len(left))
    deadline = time.monotonic() + TIMEOUT
    while left and time.monotonic() < deadline:
        for group in left:
            linux.kill_rest_of_group(group)
        time.sleep(INTERVAL)
        left = {group for group in left if linux.group_exists(group)}
