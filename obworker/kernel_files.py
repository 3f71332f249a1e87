"""What the kernel tells in files, of proc and sys, that come and go and are not everywhere."""

from __future__ import annotations

from pathlib import Path


def text_of(file: Path) -> str:
    """Return what a file says, nothing where it cannot be read: it has gone, or is not ours."""
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""


def stat_of(pid: int) -> list[str]:
    """Return what proc_pid_stat(5) has of a process, from its state on; nothing where it has gone.

    The name before that may have anything in it.
    """
    return text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def state_of(pid: int) -> str:
    """Return the letter of a process's state, nothing where nobody tells."""
    return "".join(stat_of(pid)[:1])
