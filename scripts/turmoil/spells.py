"""Times in which a request may have to wait, whatever the server does: pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Spell(NamedTuple):
    """A worker was stopped, or there was none, or the clients themselves did not run."""

    begin: float
    end: float


def overlap(spells: Iterable[Spell], begin: float, end: float) -> float:
    """Return how many seconds of a time the spells cover, counting none twice."""
    covered, until = 0.0, begin
    for spell in sorted(spells):
        first, last = max(spell.begin, until), min(spell.end, end)
        if first < last:
            covered, until = covered + last - first, last
    return covered
