"""What the log says of a process that ended: what is known, and nothing guessed."""

from __future__ import annotations

import signal

from obworker.supervisor.scoreboard import Cause

UNKILLABLE = "does not die: it sleeps in the kernel"


def describe(code: int, *, oom: bool = False) -> str:
    """Say how a process ended, from its exit code or minus its signal.

    `oom` is whether the kernel is known to have killed it for memory, which it does by SIGKILL; see
    oom.py. Without that nobody knows who sent a SIGKILL.
    """
    if code >= 0:
        return f"exited with code {code}"
    how = f"was killed by {_name(-code)}"
    if oom and code == -signal.SIGKILL:
        how += ", out of memory: the cgroup's oom_kill rose"
    return how


def cause(code: int, *, was_ready: bool, known: Cause | None = None, is_oom: bool = False) -> Cause:
    """Say why a process ended, from its exit code or minus its signal, and what was `known` before.

    One that was leaving may have crashed on its way.
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
