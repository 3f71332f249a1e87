"""What the log says of a process that ended: what is known, and nothing guessed."""

from __future__ import annotations

import signal

from obworker.supervisor.scoreboard import Cause


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


def cause(
    code: int,
    *,
    was_ready: bool,
    was_leaving: bool = False,
    was_late: bool = False,
    is_oom: bool = False,
    device_lost: bool = False,
) -> Cause:
    """Say why a process ended, from its exit code or minus its signal, and what is known of it."""
    if device_lost:
        return Cause.DEVICE
    if is_oom:
        return Cause.OOM
    if not was_ready:
        return Cause.BOOT
    if was_late:
        return Cause.LATE
    if code < 0:
        return Cause.SIGNAL
    return Cause.LEFT if was_leaving else Cause.EXIT


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals
        return f"signal {number}"
