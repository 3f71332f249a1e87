"""Which cores belong to which slot, if workers are pinned. Pure.

The cores of a slot depend only on its number and on the planned number of slots, so a replacement
gets the same cores. Slots have no cores in common, unless there are more slots than cores; then
they are spread evenly over the cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

CoreSet = tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """The cores of each slot that was planned; none where workers are not pinned."""

    sets: tuple[CoreSet, ...] = ()

    def of(self, slot: int) -> CoreSet:
        """Return a slot's cores; slots that are added later share those of others."""
        return self.sets[slot % len(self.sets)] if self.sets else ()

    def room(self, slot: int, slots: int) -> int | None:
        """Return a slot's part of its cores, which others may share; None if not pinned."""
        if not self.sets:
            return None
        return max(1, len(self.of(slot)) // self._sharing(slot, slots))

    def _sharing(self, slot: int, slots: int) -> int:
        mine = self.of(slot)
        return max(1, sum(self.of(other) == mine for other in range(slots)))

    def describe(self, slots: int) -> str:
        """Return what the start-up report says."""
        most = max(self._sharing(slot, slots) for slot in range(slots))
        shown = " ".join(write_list(cores) for cores in dict.fromkeys(self.sets))
        if most == 1:
            return f"each worker on cores of its own: {shown}"
        return f"more workers than sets of cores, so up to {most} share one: {shown}"


def place(cores: Sequence[int], near: Sequence[frozenset[int]]) -> Placement:
    """Divide cores among slots, neighbouring cores together; `near[i]` are preferred by slot i.

    Slots with the same preference divide these cores among them, and no other slot gets any. If
    preferences overlap in part, or cannot all be satisfied, they are ignored.
    """
    wishes = [frozenset(cores) & wish or frozenset(cores) for wish in near]
    if not _are_apart(set(wishes)):
        wishes = [frozenset(cores)] * len(near)
    pieces = {
        wish: iter(_cut([core for core in cores if core in wish], wishes.count(wish)))
        for wish in set(wishes)
    }
    return Placement(tuple(next(pieces[wish]) for wish in wishes))


def _are_apart(wishes: set[frozenset[int]]) -> bool:
    return sum(map(len, wishes)) == len(frozenset[int]().union(*wishes))


def _cut(cores: Sequence[int], pieces: int) -> list[CoreSet]:
    """Cut a row of cores into pieces of almost the same length, or deal them out one by one."""
    if pieces > len(cores):
        return [(cores[i % len(cores)],) for i in range(pieces)]
    edges = [i * len(cores) // pieces for i in range(pieces + 1)]
    return [tuple(cores[begin:end]) for begin, end in pairwise(edges)]


def write_list(cores: Iterable[int]) -> str:
    """Write a list of cores as the kernel does: 0-3,8 (cpuset(7), "List format")."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
