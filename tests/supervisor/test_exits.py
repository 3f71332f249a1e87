"""The words for every way in which a process can end."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from obworker.supervisor import exits
from obworker.supervisor.scoreboard import Cause

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


@pytest.mark.parametrize(
    ("code", "known", "cause"),
    [
        (3, {}, Cause.EXIT),
        (0, {}, Cause.EXIT),
        (-signal.SIGSEGV, {}, Cause.SIGNAL),
        (-signal.SIGKILL, {"is_oom": True}, Cause.OOM),
        (-signal.SIGKILL, {"is_oom": True, "was_ready": False}, Cause.OOM),
        (-signal.SIGABRT, {"known": Cause.LATE}, Cause.LATE),
        (-signal.SIGABRT, {"known": Cause.LATE, "was_ready": False}, Cause.BOOT),
        (1, {"was_ready": False}, Cause.BOOT),
        (1, {"known": Cause.LEFT}, Cause.LEFT),
        (-signal.SIGSEGV, {"known": Cause.LEFT}, Cause.SIGNAL),
        (5, {"known": Cause.DEVICE}, Cause.DEVICE),
        (5, {"known": Cause.DEVICE, "was_ready": False}, Cause.DEVICE),
    ],
)
def test_an_end_has_a_cause(code: int, known: dict[str, Any], cause: Cause) -> None:
    assert exits.cause(code, **{"was_ready": True, **known}) is cause
