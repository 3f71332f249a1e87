"""How much memory the processes of one obworker take, and how much of it they share.

Theory of operation. All our processes are descendants of the master, which adopts orphans. So
walking down the tree finds all of them and nothing else, such as a stranger with a reused pid. What
a process has started counts as its own. All sizes of a process are from one read of smaps_rollup
(proc(5)), so they are consistent; psutil has RSS from elsewhere.

To answer, the kernel walks page tables, which takes time. So memory is measured on demand and not
for every probe, by a thread that can wait. Processes that have ended meanwhile, or belong to
another user, are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from obworker.kernel_files import text_of
from obworker.supervisor.health import Report

PROC = Path("/proc")
OTHERS = 0
"""The pid that stands for descendants of the master that no known process has started."""

LEAST_AGE = 5.0
LARGEST_SHARE = 20


class Memory(NamedTuple):
    """Bytes that a process has in RAM.

    `rss` counts every page in full. `pss` divides each shared page among its processes, so the sum
    over all is what they take together. `uss` counts only pages that are not shared.
    """

    rss: int
    pss: int
    uss: int

    def __add__(self, other: tuple[object, ...]) -> Memory:
        """Return the sum."""
        assert isinstance(other, Memory)
        return Memory(*map(sum, zip(self, other, strict=True)))


NONE = Memory(0, 0, 0)
Usage = dict[int, Memory]


def measure(master: int, known: Iterable[int], proc: Path = PROC) -> Usage:
    """Return the memory of `master` and its `known` descendants, with all they started, by pid."""
    found: Usage = {}
    for pid, owner in _owners(master, set(known), proc).items():
        memory = memory_of(pid, proc)
        if memory is not None:
            found[owner] = found.get(owner, NONE) + memory
    return found


def _owners(master: int, known: set[int], proc: Path) -> dict[int, int]:
    """Return every process from the master down, with the pid for which it counts."""
    owners, to_visit = {master: master}, [master]
    while to_visit:
        pid = to_visit.pop()
        inherited = OTHERS if pid == master else owners[pid]
        for child in _children(proc / str(pid)):
            owners[child] = child if child in known else inherited
            to_visit.append(child)
    return owners


def _children(process: Path) -> list[int]:
    """Return the children of a process, of all its threads."""
    found: list[int] = []
    with suppress(OSError):  # it has ended
        for thread in (process / "task").iterdir():
            found += map(int, text_of(thread / "children").split())
    return found


def memory_of(pid: int, proc: Path = PROC) -> Memory | None:
    """Return the memory of one process; None if it has ended, or belongs to another user."""
    lines = text_of(proc / str(pid) / "smaps_rollup").splitlines()[1:]
    sizes = {words[0]: int(words[1]) << 10 for words in map(str.split, lines)}
    if "Rss:" not in sizes:  # it cannot be read, or is empty, as that of a zombie
        return None
    private = sum(size for name, size in sizes.items() if name.startswith("Private_"))
    return Memory(sizes["Rss:"], sizes["Pss:"], private)


class Measurement(NamedTuple):
    """What was measured, how many seconds that took, and when the next one is due."""

    usage: Usage
    seconds: float
    due: float


class Memories:
    """Measures on demand, unless the last measurement is recent; for one thread.

    It takes at most a twentieth of the time, which matters for services with hundreds of GiB.
    """

    def __init__(
        self, take: Callable[[], Usage], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._take = take
        self._clock = clock
        self._last: Measurement | None = None

    def recent(self) -> Measurement:
        """Return the last measurement if it is recent, else a new one."""
        if self._last is None or self._clock() >= self._last.due:
            self._last = self._measure()
        return self._last

    def _measure(self) -> Measurement:
        begun = self._clock()
        usage, ended = self._take(), self._clock()
        took = ended - begun
        return Measurement(usage, took, ended + max(LEAST_AGE, took * LARGEST_SHARE))


def with_memory(report: Report, measured: Mapping[int, Memory]) -> Report:
    """Return a report (health.py) with the memory of each of its processes, and of all."""
    return report | {
        "memory": sum(measured.values(), NONE)._asdict() if measured else None,
        "slots": [_slot(slot, measured) for slot in report["slots"]],
    }


def _slot(slot: Report, measured: Mapping[int, Memory]) -> Report:
    new = slot["replacement"]
    return _process(slot, measured) | {"replacement": new and _process(new, measured)}


def _process(process: Report, measured: Mapping[int, Memory]) -> Report:
    memory = measured.get(process["pid"])
    return process | {"memory": memory._asdict() if memory else None}
