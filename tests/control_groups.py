"""A control group of this machine's own for a test, where the machine lets us make one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from obworker import cgroups

PERIOD = 100_000


class Group:
    """A cgroup with a quota of cores, and one within it that has none of its own."""

    def __init__(self, above: Path) -> None:
        self.outer = above / f"test-{uuid.uuid4().hex[:12]}"
        self.inner = self.outer / "inner"

    def make(self, cores: float) -> None:
        """Make both; raise OSError where that is not for us to do."""
        self.outer.mkdir()
        quota = int(cores * PERIOD)
        if (self.outer / "cpu.max").exists():
            (self.outer / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (self.outer / "cpu.cfs_period_us").write_text(f"{PERIOD}")
            (self.outer / "cpu.cfs_quota_us").write_text(f"{quota}")
        self.inner.mkdir()

    def enter(self) -> tuple[str, ...]:
        """Return a command that runs the one which follows in the inner group."""
        return ("sh", "-c", f'echo $$ > {self.inner}/cgroup.procs && exec "$@"', "sh")

    def remove(self) -> None:
        """Remove both; their processes must have ended."""
        for directory in (self.inner, self.outer):
            with suppress(FileNotFoundError):
                directory.rmdir()


@contextmanager
def with_quota(cores: float) -> Iterator[Group | None]:
    """Make a group that has so many cores' time; None where nobody lets us."""
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
