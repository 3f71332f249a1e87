"""How much memory processes take, and how much of it they share.

The kernel walks a process's page tables to tell (smaps_rollup, proc(5)), which takes time: it is
asked when somebody wants to know, and not for every probe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import psutil

from obworker.supervisor.health import Report


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


def of_tree(pid: int) -> dict[int, Memory]:
    """Measure a process and all that came of it, but not who has gone or is another user's."""
    measured = {}
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            full = process.memory_full_info()
            measured[process.pid] = Memory(full.rss, full.pss, full.uss)
    return measured


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def total(measured: Iterable[Memory]) -> Memory:
    """Return what all have together."""
    return sum(measured, NONE)


def with_memory(report: Report, measured: Mapping[int, Memory]) -> Report:
    """Return a report (health.py) that says the memory of each of its processes, and of all."""
    slots = report["slots"]
    assert isinstance(slots, list)
    everything = total(measured.values())._asdict() if measured else None
    return report | {
        "memory": everything,
        "slots": [_slot(slot, measured) for slot in slots],
    }


def _slot(slot: Report, measured: Mapping[int, Memory]) -> Report:
    new = slot["replacement"]
    replacement = _process(new, measured) if isinstance(new, dict) else None
    return _process(slot, measured) | {"replacement": replacement}


def _process(process: Report, measured: Mapping[int, Memory]) -> Report:
    pid = process["pid"]
    memory = measured.get(pid) if isinstance(pid, int) else None
    return process | {"memory": memory._asdict() if memory else None}
