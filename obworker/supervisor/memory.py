"""How much memory the processes of one obworker take, and how much of it they share.

Theory of operation. Everything that runs here is below the master, which adopts orphans. So a walk
down the tree finds it all and nothing else: a number that is somebody else's by now is not in it.
What a process has started counts as its own. All sizes of a process are from one read of
smaps_rollup (proc(5)), so they agree; psutil has RSS from elsewhere.

The kernel walks page tables to tell, which takes time. So it is asked when somebody wants to know,
and not for every probe, by a thread that can wait. A process that has gone meanwhile, or is another
user's, is left out.
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
"""The pid that stands for what is below the master, and nobody's whom we know."""

LEAST_AGE = 5.0
LARGEST_SHARE = 20


class Memory(NamedTuple):
    """Bytes that a process has in RAM.

    `rss` counts every page, `pss` those that are shared in shares, so that the sum of all processes
    is what they take together, and `uss` only what nobody else has.
    """

    rss: int
    pss: int
    uss: int

    def __add__(self, other: tuple[object, ...]) -> Memory:
        """Return both together."""
        assert isinstance(other, Memory)
        return Memory(*map(sum, zip(self, other, strict=True)))


NONE = Memory(0, 0, 0)
Usage = dict[int, Memory]


def measure(master: int, known: Iterable[int], proc: Path = PROC) -> Usage:
    """Return what `master` and the `known` below it have, by pid, with all that they started."""
    found: Usage = {}
    for pid, chief in _chiefs(master, set(known), proc).items():
        memory = memory_of(pid, proc)
        if memory is not None:
            found[chief] = found.get(chief, NONE) + memory
    return found


def _chiefs(master: int, known: set[int], proc: Path) -> dict[int, int]:
    """Return every process from the master down, with the one whose it is."""
    chiefs, to_visit = {master: master}, [master]
    while to_visit:
        pid = to_visit.pop()
        inherited = OTHERS if pid == master else chiefs[pid]
        for child in _children(proc / str(pid)):
            chiefs[child] = child if child in known else inherited
            to_visit.append(child)
    return chiefs


def _children(process: Path) -> list[int]:
    """Return what the threads of a process have started."""
    found: list[int] = []
    with suppress(OSError):  # it has ended
        for thread in (process / "task").iterdir():
            found += map(int, text_of(thread / "children").split())
    return found


def memory_of(pid: int, proc: Path = PROC) -> Memory | None:
    """Return what one process has; None where it has ended, or is another user's."""
    lines = text_of(proc / str(pid) / "smaps_rollup").splitlines()[1:]
    sizes = {words[0]: int(words[1]) << 10 for words in map(str.split, lines)}
    if "Rss:" not in sizes:  # nothing can be read, or it has ended and nobody has reaped it
        return None
    private = sum(size for name, size in sizes.items() if name.startswith("Private_"))
    return Memory(sizes["Rss:"], sizes["Pss:"], private)


class Measurement(NamedTuple):
    """What was measured, how long that took, and when it is to be done again."""

    usage: Usage
    seconds: float
    due: float


class Memories:
    """Measures when asked, unless the last measurement is young enough; for one thread.

    That it takes a twentieth of the time at most is for services with hundreds of GiB.
    """

    def __init__(
        self, take: Callable[[], Usage], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._take = take
        self._clock = clock
        self._last: Measurement | None = None

    def recent(self) -> Measurement:
        """Return a measurement of a few seconds ago, or of now."""
        if self._last is None or self._clock() >= self._last.due:
            self._last = self._measure()
        return self._last

    def _measure(self) -> Measurement:
        begun = self._clock()
        usage, ended = self._take(), self._clock()
        took = ended - begun
        return Measurement(usage, took, ended + max(LEAST_AGE, took * LARGEST_SHARE))


def with_memory(report: Report, measured: Mapping[int, Memory]) -> Report:
    """Return a report (health.py) that says the memory of each of its processes, and of all."""
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
