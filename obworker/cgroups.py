"""Where the control groups of this process can be seen; cgroups(7).

/proc/self/cgroup names its cgroup in each hierarchy, and /proc/self/mountinfo says where a
hierarchy is mounted and from which cgroup downwards. In a container the two need not agree: then
what is mounted is all there is to see, and it is the container's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Mounted(NamedTuple):
    """What is seen of a hierarchy at `point`; `own` is this process's cgroup, if that is."""

    point: Path
    own: Path | None

    @property
    def levels(self) -> list[Path]:
        """The own cgroup and those above it, as far as they are seen; else what is mounted."""
        if self.own is None:
            return [self.point]
        above = [path for path in self.own.parents if path.is_relative_to(self.point)]
        return [self.own, *above]


def mounted(controller: str, root: Path = Path("/")) -> list[Mounted]:
    """Return where a controller may be: in version 2's hierarchy, or in 1's.

    A machine may have both, and a controller is in one. `root` is where proc and the cgroup file
    systems are.
    """
    try:
        memberships = parse_memberships((root / "proc/self/cgroup").read_text())
        mounts = list(parse_mounts((root / "proc/self/mountinfo").read_text(), controller))
    except (OSError, ValueError):  # a sandbox's proc need not be Linux's
        return []
    return [
        mount.seen(memberships[mount.hierarchy], root)
        for mount in mounts
        if mount.hierarchy in memberships
    ]


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

    def seen(self, path: str, root: Path) -> Mounted:
        """Return what is seen here, for a process of the cgroup `path`."""
        point = root / self.point.lstrip("/")
        try:
            below = PurePosixPath(path).relative_to(self.top)
        except ValueError:
            return Mounted(point, None)
        return Mounted(point, None if ".." in below.parts else point / below)


def parse_mounts(text: str, controller: str) -> Iterator[Mount]:
    """Read /proc/PID/mountinfo (proc(5)): the mounts of version 2 and of one of 1's controllers."""
    for line in text.splitlines():
        mount, _, system = line.partition(" - ")
        top, point = mount.split()[3:5]
        kind, _, options = system.split(" ", 2)
        if kind == "cgroup2":
            yield Mount("", top, point)
        elif kind == "cgroup" and controller in options.split(","):
            yield Mount(controller, top, point)
