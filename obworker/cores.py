"""How many of the machine's cores this process may use.

Two limits apply: the cores on which the scheduler may run it (taskset, cpusets), and the quotas of
its cgroups (``docker run --cpus``, limits of Kubernetes, CPUQuota= of systemd). Native libraries
know the first at most, so in a small container on a big machine they start too many threads.

The smallest quota of all levels of the hierarchy counts, of which a container may only see its own
(Documentation/admin-guide/cgroup-v2.rst, cpu.max; Documentation/scheduler/sched-bwc.rst).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from obworker import cgroups
from obworker.kernel_files import text_of

OPENMP = "OMP_NUM_THREADS"


class Cores(NamedTuple):
    """The cores that may be used, and the quota as a number of cores, if that is smaller."""

    allowed: frozenset[int]
    quota: float | None = None

    @property
    def capacity(self) -> float:
        """The number of cores, or the quota if there is one."""
        return len(self.allowed) if self.quota is None else self.quota

    @property
    def description(self) -> str:
        """A text for the log."""
        if self.quota is not None:
            return f"{round(self.quota, 2)} cores (cgroup quota)"
        return "1 core" if len(self.allowed) == 1 else f"{len(self.allowed)} cores"


def available(root: Path = Path("/")) -> Cores:
    """Return the cores of this process; proc and the cgroup file systems are below `root`."""
    allowed = frozenset(os.sched_getaffinity(0))
    quota = least_quota(root)
    return Cores(allowed, quota if quota is not None and quota < len(allowed) else None)


def threads_alone(environ: Mapping[str, str]) -> int:
    """Return how many native threads a process without a supervisor may use."""
    return chosen_threads(environ.get(OPENMP, "")) or max(1, int(available().capacity))


def chosen_threads(text: str) -> int:
    """Parse a number of threads as OpenMP does: of a list by nesting level, the first."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() else 0


def least_quota(root: Path) -> float | None:
    """Return the smallest quota of the cgroups of this process, in cores; None if there is none.

    If no hierarchy shows our own cgroup, those that are mounted count.
    """
    seen = cgroups.mounted("cpu", root)
    levels = [level for each in [m for m in seen if m.own] or seen for level in each.levels]
    quotas = [quota for level in levels if (quota := _quota(level)) is not None]
    return min(quotas, default=None)


def _quota(directory: Path) -> float | None:
    """Return a cgroup's quota, in version 2's form or in version 1's."""
    text = text_of(directory / "cpu.max") or " ".join(
        text_of(directory / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    try:
        quota, period = map(int, text.split())
    except ValueError:  # "max", or nothing
        return None
    return quota / period if quota > 0 and period > 0 else None
