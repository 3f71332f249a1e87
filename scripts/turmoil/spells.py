"""Periods in which a request may have to wait through no fault of the server. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Spell(NamedTuple):
    """A period in which a worker was frozen, no worker was ready, or the clients did not run."""

    begin: float
    end: float


def overlap(spells: Iterable[Spell], begin: float, end: float) -> float:
    """Return how many seconds between `begin` and `end` the spells cover, counting none twice."""
    covered, until = 0.0, begin
    for spell in sorted(spells):
        first, last = max(spell.begin, until), min(spell.end, end)
        if first < last:
            covered, until = covered + last - first, last
    return covered
