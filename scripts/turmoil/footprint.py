"""Measures the descriptors and memory of an idle server, and tells whether they have grown."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

import psutil

from turmoil.served import Served

# For up to 2 s a server goes on reading from a connection that it has closed (docs/timeouts.md).
WATCH_SECONDS = 4.0
MOST_GROWTH = 2 << 20
ROLES = ("admin", "mold", "worker")
WEIGHED = ("master", "admin")


class Footprint(NamedTuple):
    """The most descriptors that a process of each role has, and the memory of some, in bytes."""

    descriptors: Mapping[str, int]
    memory: Mapping[str, int]


def least(server: Served) -> Footprint:
    """Return the least descriptors and memory that the server has within a few seconds."""
    end = time.monotonic() + WATCH_SECONDS
    found: list[Footprint] = []
    while not found or time.monotonic() < end:
        # a worker that has had its number of requests may be replaced even now
        with suppress(psutil.NoSuchProcess):
            found.append(_now(server))
        time.sleep(0.2)
    return Footprint(
        {role: min(one.descriptors[role] for one in found) for role in found[0].descriptors},
        {role: min(one.memory[role] for one in found) for role in found[0].memory},
    )


def growth(before: Footprint, after: Footprint) -> Iterator[str]:
    """Say which descriptors and memory have grown."""
    for role, count in after.descriptors.items():
        if count > before.descriptors[role]:
            yield f"{role}: {before.descriptors[role]} descriptors, {count} at the end"
    for role, size in after.memory.items():
        if size > before.memory[role] + MOST_GROWTH:
            yield f"{role}: {before.memory[role] >> 10} KiB, {size >> 10} KiB at the end"


def _now(server: Served) -> Footprint:
    server.ask("/metrics")  # so that a new admin process has imported the code for it
    family = {"master": [server.master], **{role: server.processes(role) for role in ROLES}}
    return Footprint(
        {role: max(one.num_fds() for one in processes) for role, processes in family.items()},
        {role: _memory(family[role]) for role in WEIGHED},
    )


def _memory(processes: list[psutil.Process]) -> int:
    return max(int(one.memory_info().rss) for one in processes)
