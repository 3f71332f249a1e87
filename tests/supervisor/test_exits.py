"""The words for every way in which a process can end."""

from __future__ import annotations

import signal

import pytest

from obworker.supervisor import exits

KILLED_FOR_MEMORY = "was killed by SIGKILL, out of memory: the cgroup's oom_kill rose"


@pytest.mark.parametrize(
    ("code", "oom", "words"),
    [
        (0, False, "exited with code 0"),
        (3, False, "exited with code 3"),
        (137, True, "exited with code 137"),
        (-signal.SIGKILL, False, "was killed by SIGKILL"),
        (-signal.SIGKILL, True, KILLED_FOR_MEMORY),
        (-signal.SIGSEGV, False, "was killed by SIGSEGV"),
        (-signal.SIGSEGV, True, "was killed by SIGSEGV"),
        (-signal.SIGABRT, False, "was killed by SIGABRT"),
        (-signal.SIGTERM, True, "was killed by SIGTERM"),
        (-signal.SIGRTMIN, False, "was killed by SIGRTMIN"),
        (-(signal.SIGRTMIN + 1), False, f"was killed by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_an_end_is_described(code: int, oom: bool, words: str) -> None:
    assert exits.describe(code, oom=oom) == words
