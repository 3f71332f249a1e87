"""Errors that may occur many times a second, and when the log says so. Pure.

A line for each of them would bury the rest of the log. So the first ones are logged at the next
tick, and those that follow are summed up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

# Each kind of trouble is logged once in so many seconds at most.
INTERVAL = 10.0


class Recurring:
    """Counts how often something happened, by reason."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._counts: Counter[str] = Counter()
        self._due = -math.inf

    def count(self, why: str) -> None:
        """Note that it happened once more."""
        self._counts[why] += 1

    def line(self, now: float) -> str:
        """Return the line for the log that is due now, or an empty text."""
        if not self._counts or now < self._due:
            return ""
        counts, self._counts = self._counts, Counter()
        self._due = now + INTERVAL
        reasons = [_told(why, count) for why, count in counts.most_common()]
        return f"{self._what}: {'; '.join(reasons)}"


class Troubles:
    """All kinds of trouble of a server; only for the thread that holds the wheel."""

    def __init__(self) -> None:
        self.refused = Recurring("refused a request with 503")
        self.not_accepted = Recurring("cannot accept a connection")
        self.not_taken = Recurring("cannot take a connection from another worker")
        self.garbled = Recurring("cannot read what a client sends")

    def lines(self, now: float) -> Iterator[str]:
        """Return the lines for the log that are due; with an infinite `now`, all that is left."""
        troubles = (self.refused, self.not_accepted, self.not_taken, self.garbled)
        return filter(None, [trouble.line(now) for trouble in troubles])


def _told(why: str, count: int) -> str:
    return why if count == 1 else f"{why} ({count} times)"
