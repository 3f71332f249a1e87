"""Whether the kernel's out-of-memory killer struck among our processes.

A SIGKILL does not say who sent it. But the kernel counts the processes of a cgroup that its
out-of-memory killer takes, whatever the limit was (``oom_kill`` in memory.events, kernel
Documentation/admin-guide/cgroup-v2.rst; in memory.oom_control with cgroup v1, since 4.13), and
raises the count before it sends the signal (mm/oom_kill.c, __oom_kill_process): by the time that
the process can be reaped, its death is counted.

Only our own cgroup is asked. What an ancestor counts may have happened to a stranger.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

KEY = "oom_kill"
# By hierarchy: version 2's has no name.
FILES = {"": "memory.events", "memory": "memory.oom_control"}


class OomKills:
    """The processes of this cgroup that the kernel has killed for memory."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Start to count; `root` is where proc and the cgroup file systems are."""
        self._file = _find(root)
        self._seen = self._total() or 0

    def taken(self) -> int:
        """Return how many were killed since the last look; 0 where the kernel does not say."""
        total = self._total()
        if total is None:
            return 0
        new, self._seen = total - self._seen, total
        return new

    def _total(self) -> int | None:
        return None if self._file is None else _read(self._file)


def _read(file: Path) -> int | None:
    try:
        counts = [line.split() for line in file.read_text().splitlines()]
        return next((int(words[1]) for words in counts if words[0] == KEY), None)
    except (OSError, ValueError, IndexError):
        return None


def _find(root: Path) -> Path | None:
    """Return the file with the count, where there is one."""
    try:
        memberships = parse_memberships((root / "proc/self/cgroup").read_text())
        mounts = list(parse_mounts((root / "proc/self/mountinfo").read_text()))
    except (OSError, ValueError):  # a sandbox's proc need not be Linux's
        return None
    candidates = _candidates(memberships, mounts)
    files = (root / path.relative_to("/") for path in candidates)
    return next((file for file in files if _read(file) is not None), None)


def _candidates(memberships: dict[str, str], mounts: list[Mount]) -> Iterator[PurePosixPath]:
    """Return the files that may have the count: version 2 first; a machine may have both."""
    for hierarchy, file in FILES.items():
        for mount in mounts:
            if mount.hierarchy == hierarchy and hierarchy in memberships:
                directory = mount.locate(memberships[hierarchy])
                if directory is not None:
                    yield directory / file


def parse_memberships(text: str) -> dict[str, str]:
    """Read /proc/PID/cgroup: the path in each controller's hierarchy, version 2's under ``""``."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths


class Mount(NamedTuple):
    """Where the part of a hierarchy from `top` downwards can be seen."""

    hierarchy: str
    top: str
    point: str

    def locate(self, path: str) -> PurePosixPath | None:
        """Return the directory of a cgroup, if it can be seen here."""
        try:
            return PurePosixPath(self.point) / PurePosixPath(path).relative_to(self.top)
        except ValueError:
            return None


def parse_mounts(text: str) -> Iterator[Mount]:
    """Read /proc/PID/mountinfo (proc(5)): the mounts of version 2 and of the memory controller."""
    for line in text.splitlines():
        mount, _, system = line.partition(" - ")
        top, point = mount.split()[3:5]
        kind, _, options = system.split(" ", 2)
        if kind == "cgroup2":
            yield Mount("", top, point)
        elif kind == "cgroup" and "memory" in options.split(","):
            yield Mount("memory", top, point)
