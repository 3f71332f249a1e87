"""How much of this machine's processors is ours.

Two things say so: the cores that the scheduler may put us on (taskset, a cpuset), and the share of
time that our cgroups have (``docker run --cpus``, Kubernetes' limits, systemd's CPUQuota=). Native
libraries look at the first at most, so on a big machine a small container's threads take turns.

The kernel holds us to the least quota of all levels, of which a container may see its own only
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
    """The cores that we may run on, and of how many at once there is time, where that is less."""

    allowed: frozenset[int]
    quota: float | None = None

    @property
    def capacity(self) -> float:
        """Of how many cores there is time."""
        return len(self.allowed) if self.quota is None else self.quota

    @property
    def description(self) -> str:
        """What a log calls them."""
        if self.quota is not None:
            return f"{round(self.quota, 2)} cores (cgroup quota)"
        return "1 core" if len(self.allowed) == 1 else f"{len(self.allowed)} cores"


def available(root: Path = Path("/")) -> Cores:
    """Return the cores of this process; `root` is where proc and the cgroup file systems are."""
    allowed = frozenset(os.sched_getaffinity(0))
    quota = least_quota(root)
    return Cores(allowed, quota if quota is not None and quota < len(allowed) else None)


def threads_alone(environ: Mapping[str, str]) -> int:
    """Return how many native threads a process may use that serves without a supervisor."""
    return chosen_threads(environ.get(OPENMP, "")) or max(1, int(available().capacity))


def chosen_threads(text: str) -> int:
    """Read a number of threads as OpenMP does: of a list, by level of nesting, the first."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() else 0


def least_quota(root: Path) -> float | None:
    """Return how many cores' time the cgroups of this process leave it, None where they do not say.

    What is mounted and does not have our cgroup in it counts only where nothing does.
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
