"""Describes how processes ended, without guessing."""

from __future__ import annotations

import signal

from obworker.supervisor.scoreboard import Cause

UNKILLABLE = "does not die: it sleeps in the kernel"


def describe(code: int, *, oom: bool = False) -> str:
    """Describe how a process ended, by its exit code or its negative signal number.

    `oom` says that the kernel has killed it for memory (oom.py). Otherwise it is not known who has
    sent a SIGKILL.
    """
    if code >= 0:
        return f"exited with code {code}"
    how = f"was killed by {_name(-code)}"
    if oom and code == -signal.SIGKILL:
        how += ", out of memory: the cgroup's oom_kill rose"
    return how


def cause(code: int, *, was_ready: bool, known: Cause | None = None, is_oom: bool = False) -> Cause:
    """Return why a process ended, by its exit code or negative signal, and what was `known` before.

    One that was leaving may still have crashed.
    """
    if known is Cause.DEVICE:
        return known
    if is_oom:
        return Cause.OOM
    if not was_ready:
        return Cause.BOOT
    if code < 0 and known is not Cause.LATE:
        return Cause.SIGNAL
    return known or Cause.EXIT


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals
        return f"signal {number}"
