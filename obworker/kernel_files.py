"""Reads files of proc and sys, which may be missing or vanish at any time."""

from __future__ import annotations

from pathlib import Path


def text_of(file: Path) -> str:
    """Return the content of a file, or "" if it cannot be read."""
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""


def stat_of(pid: int) -> list[str]:
    """Return the fields of proc_pid_stat(5) of a process, from its state on; [] if it has gone.

    The name before that may contain anything.
    """
    return text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def state_of(pid: int) -> str:
    """Return the letter of a process's state, or "" if it is not known."""
    return "".join(stat_of(pid)[:1])
