"""Whether the kernel's out-of-memory killer struck among our processes.

A SIGKILL does not say who has sent it. But the kernel counts how many processes of a cgroup its
out-of-memory killer has killed (``oom_kill`` in memory.events, kernel Documentation/admin-guide/
cgroup-v2.rst; in memory.oom_control with cgroup v1, since 4.13). It counts before it sends the
signal (mm/oom_kill.c, __oom_kill_process), so when a process is reaped its kill has been counted.
That may be much earlier, because a process frees its memory first, at 0.2 to 0.5 s for each GiB. So
a kill that was counted is kept until a SIGKILL that it explains.

Only our own cgroup is read: the counter of an ancestor includes processes of others.
"""

from __future__ import annotations

import re
from pathlib import Path

from obworker import cgroups
from obworker.kernel_files import text_of

FILES = ("memory.events", "memory.oom_control")
LONGEST_DEATH = 60.0


class OomKills:
    """Counts the processes of this cgroup that were killed for memory and not reaped yet."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Start to count; proc and the cgroup file systems are below `root`."""
        self._file = _find(root)
        self._seen = self._total() or 0
        self._unexplained = 0
        self._forget_at = 0.0

    def look(self, now: float) -> None:
        """Count the kills since the last call; forget old ones that explain no end."""
        if now >= self._forget_at:
            self._unexplained = 0
        total = self._total()
        if total is not None and total != self._seen:
            self._unexplained += total - self._seen
            self._seen, self._forget_at = total, now + LONGEST_DEATH

    def explains_one(self) -> bool:
        """Return whether a kill explains a SIGKILL; each kill explains one."""
        if self._unexplained <= 0:
            return False
        self._unexplained -= 1
        return True

    def _total(self) -> int | None:
        return None if self._file is None else _read(self._file)


def _read(file: Path) -> int | None:
    found = re.search(r"^oom_kill (\d+)$", text_of(file), re.MULTILINE)
    return int(found[1]) if found else None


def _find(root: Path) -> Path | None:
    """Return the file with the count, where there is one."""
    owns = [seen.own for seen in cgroups.mounted("memory", root)]
    files = (own / name for own in owns if own is not None for name in FILES)
    return next((file for file in files if _read(file) is not None), None)
