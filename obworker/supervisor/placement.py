"""Which cores belong to which slot, where workers are pinned. Pure.

A slot's cores depend on the slot and on how many were planned: whatever process fills it has the
same. Slots have no core in common, unless there are more slots than cores; then each core has as
many as the others, give or take one.
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
        """Return a slot's cores; slots that are added later share those there are."""
        return self.sets[slot % len(self.sets)] if self.sets else ()

    def room(self, slot: int, slots: int) -> int | None:
        """Return how many cores there are for each of those that share a slot's, if pinned."""
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
    """Deal cores out to slots, neighbours together; `near[i]` is where slot i would rather be.

    Slots with the same wish share what of it there is; nobody else gets it. Where wishes overlap
    in part, or there is nothing there for somebody, none is granted.
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
