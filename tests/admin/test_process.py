"""The admin process where it cannot do its work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ALONE = """
import os, resource, socket
from obworker.admin.process import main
from obworker.supervisor.scoreboard import Scoreboard
os.setuid(54321)  # root may have any number of threads
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
ours, theirs = socket.socketpair()
main(Scoreboard.create().descriptor, -1, theirs.fileno(), "info", "")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="it needs a user who has no other process")
def test_without_room_for_a_thread_it_says_so_in_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "cannot start a thread: a limit on processes and threads (pids.max, " in line
