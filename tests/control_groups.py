"""Makes a real control group for a test, on machines that let the tests make one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from obworker import cgroups

PERIOD = 100_000


class Group:
    """A cgroup with a quota of CPU time, and a cgroup inside it that has no quota of its own."""

    def __init__(self, above: Path) -> None:
        self.outer = above / f"test-{uuid.uuid4().hex[:12]}"
        self.inner = self.outer / "inner"

    def make(self, cores: float) -> None:
        """Make both cgroups; raise OSError if that is not allowed."""
        self.outer.mkdir()
        quota = int(cores * PERIOD)
        if (self.outer / "cpu.max").exists():
            (self.outer / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (self.outer / "cpu.cfs_period_us").write_text(f"{PERIOD}")
            (self.outer / "cpu.cfs_quota_us").write_text(f"{quota}")
        self.inner.mkdir()

    def enter(self) -> tuple[str, ...]:
        """Return the beginning of a command line that runs the rest of it in the inner cgroup."""
        return ("sh", "-c", f'echo $$ > {self.inner}/cgroup.procs && exec "$@"', "sh")

    def remove(self) -> None:
        """Remove both cgroups; their processes must have ended."""
        for directory in (self.inner, self.outer):
            with suppress(FileNotFoundError):
                directory.rmdir()


@contextmanager
def with_quota(cores: float) -> Iterator[Group | None]:
    """Make a group with a quota of so many cores; yield None if no group can be made."""
    group = next((made for made in map(Group, _places()) if _can_make(made, cores)), None)
    try:
        yield group
    finally:
        if group is not None:
            group.remove()


def _places() -> Iterator[Path]:
    return (seen.point for seen in cgroups.mounted("cpu") if os.access(seen.point, os.W_OK))


def _can_make(group: Group, cores: float) -> bool:
    try:
        group.make(cores)
    except OSError:
        group.remove()
        return False
    return True
