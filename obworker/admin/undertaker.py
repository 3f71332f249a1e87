"""Ends what a killed master leaves behind.

Workers and molds die with the master (prctl(2), PR_SET_PDEATHSIG), but not the processes that they
have started, nor a start.sh. Each worker, mold and script leads a session, and the scoreboard still
has their pids: its pages exist while any process has them mapped.
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
    """Return the process groups of all sessions that the master has noted in the scoreboard."""
    pids = {row.pid for row in board.rows if row.state in HAS_PROCESS}
    leaders = {pid for pid in (*pids, *board.header.mold_pids) if pid}
    return leaders | linux.groups_of(leaders)


def bury(board: Scoreboard) -> None:
    """Kill every group until none is left, for at most TIMEOUT seconds.

    Once is not enough, as a process that is just being forked gets no signal. Some may never go:
    those that sleep in the kernel, and zombies that nobody reaps.
    """
    left = {group for group in groups(board) if linux.group_exists(group)}
    logger.error("the master is gone; killing the %d process groups it left", len(left))
    deadline = time.monotonic() + TIMEOUT
    while left and time.monotonic() < deadline:
        for group in left:
            linux.kill_rest_of_group(group)
        time.sleep(INTERVAL)
        left = {group for group in left if linux.group_exists(group)}
