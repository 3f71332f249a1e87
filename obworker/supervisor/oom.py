"""Whether the kernel's out-of-memory killer struck among our processes.

A SIGKILL does not say who sent it. But the kernel counts the processes of a cgroup that its
out-of-memory killer takes, whatever the limit was (``oom_kill`` in memory.events, kernel
Documentation/admin-guide/cgroup-v2.rst; in memory.oom_control with cgroup v1, since 4.13), and
raises the count before it sends the signal (mm/oom_kill.c, __oom_kill_process): by the time that
the process can be reaped, its death is counted. That may be long before, for it gives its memory
back first, at 0.2 to 0.5 s for each GiB: so a kill waits for the SIGKILL that it explains.

Only our own cgroup is asked. What an ancestor counts may have happened to a stranger.
"""

from __future__ import annotations

import re
from pathlib import Path

from obworker import cgroups
from obworker.kernel_files import text_of

FILES = ("memory.events", "memory.oom_control")
LONGEST_DEATH = 60.0


class OomKills:
    """The processes of this cgroup that the kernel has killed for memory, and nobody has reaped."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Start to count; `root` is where proc and the cgroup file systems are."""
        self._file = _find(root)
        self._seen = self._total() or 0
        self._unexplained = 0
        self._forget_at = 0.0

    def look(self, now: float) -> None:
        """Count the kills since the last look; forget those that explain no end: a stranger's."""
        if now >= self._forget_at:
            self._unexplained = 0
        total = self._total()
        if total is not None and total != self._seen:
            self._unexplained += total - self._seen
            self._seen, self._forget_at = total, now + LONGEST_DEATH

    def explains_one(self) -> bool:
        """Whether there was a kill that explains a SIGKILL; each explains one."""
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
