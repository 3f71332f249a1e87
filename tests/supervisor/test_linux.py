"""What is asked of the kernel about processes, and done to those that are not ours."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from obworker.supervisor import linux


@pytest.mark.skipif(os.getuid() != 0, reason="it needs a process of another user")
@pytest.mark.parametrize("function", ["kill_group", "signal_process"])
def test_a_process_that_has_become_another_users_is_let_be(function: str) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        program = (
            f"import os\nfrom obworker.supervisor.linux import {function}\n"
            f"os.setuid(65534)\n{function}({other.pid}, 9)\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
        other.kill()
        assert (ended.returncode, other.wait()) == (0, -9)


def test_a_process_has_ended_whether_or_not_it_is_reaped() -> None:
    assert not linux.has_ended(os.getpid())
    process = subprocess.Popen(["sleep", "60"])
    assert not linux.has_ended(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert linux.has_ended(process.pid)
    process.wait()
    assert linux.has_ended(process.pid)
