"""Where the directories of this process's control groups are; cgroups(7).

/proc/self/cgroup has its cgroup in each hierarchy. /proc/self/mountinfo says where a hierarchy is
mounted, and which cgroup is the root of the mount. In a container the two need not match: then only
the mounted cgroup is visible, which is the container's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Mounted(NamedTuple):
    """A hierarchy that is mounted at `point`; `own` is this process's cgroup, if visible."""

    point: Path
    own: Path | None

    @property
    def levels(self) -> list[Path]:
        """The own cgroup and those above it, as far as visible; else the mounted one."""
        if self.own is None:
            return [self.point]
        above = [path for path in self.own.parents if path.is_relative_to(self.point)]
        return [self.own, *above]


def mounted(controller: str, root: Path = Path("/")) -> list[Mounted]:
    """Return the hierarchies in which a controller may be: that of version 2, and one of 1.

    A machine may have both; a controller is in one of them. proc and the cgroup file systems are
    below `root`.
    """
    try:
        memberships = parse_memberships((root / "proc/self/cgroup").read_text())
        mounts = list(parse_mounts((root / "proc/self/mountinfo").read_text(), controller))
    except (OSError, ValueError):  # the proc of a sandbox may differ
        return []
    return [
        mount.seen(memberships[mount.hierarchy], root)
        for mount in mounts
        if mount.hierarchy in memberships
    ]


def parse_memberships(text: str) -> dict[str, str]:
    """Parse /proc/PID/cgroup: paths by controller; that of version 2 has the key ``""``."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths


class Mount(NamedTuple):
    """A mount of the part of a hierarchy that is below `top`."""

    hierarchy: str
    top: str
    point: str

    def seen(self, path: str, root: Path) -> Mounted:
        """Return what a process in the cgroup `path` sees here."""
        point = root / self.point.lstrip("/")
        try:
            below = PurePosixPath(path).relative_to(self.top)
        except ValueError:
            return Mounted(point, None)
        return Mounted(point, None if ".." in below.parts else point / below)


def parse_mounts(text: str, controller: str) -> Iterator[Mount]:
    """Parse /proc/PID/mountinfo (proc(5)): mounts of version 2, and of a controller of 1."""
    for line in text.splitlines():
        mount, _, system = line.partition(" - ")
        top, point = mount.split()[3:5]
        kind, _, options = system.split(" ", 2)
        if kind == "cgroup2":
            yield Mount("", top, point)
        elif kind == "cgroup" and controller in options.split(","):
            yield Mount(controller, top, point)
