"""What may go wrong many times a second, and when the log says so. Pure.

Who looks at the log learns why clients are refused, and one line for each of them would bury the
rest. So what has come first is told at the next look, and what follows is summed up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

# Of each trouble the log has a line at most every so many seconds.
INTERVAL = 10.0


class Recurring:
    """Counts how often something has happened, by the reasons."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._counts: Counter[str] = Counter()
        self._due = -math.inf

    def count(self, why: str) -> None:
        """Note that it has happened once more."""
        self._counts[why] += 1

    def line(self, now: float) -> str:
        """Return what the log is to say of it now, if anything."""
        if not self._counts or now < self._due:
            return ""
        counts, self._counts = self._counts, Counter()
        self._due = now + INTERVAL
        reasons = [_told(why, count) for why, count in counts.most_common()]
        return f"{self._what}: {'; '.join(reasons)}"


class Troubles:
    """What a server has to tell its operator; only for who holds the wheel."""

    def __init__(self) -> None:
        self.refused = Recurring("refused a request with 503")
        self.not_accepted = Recurring("cannot accept a connection")
        self.not_taken = Recurring("cannot take a connection from another worker")
        self.garbled = Recurring("cannot read what a client sends")

    def lines(self, now: float) -> Iterator[str]:
        """Return what the log is to say now; at an infinite `now` all that is left."""
        troubles = (self.refused, self.not_accepted, self.not_taken, self.garbled)
        return filter(None, [trouble.line(now) for trouble in troubles])


def _told(why: str, count: int) -> str:
    return why if count == 1 else f"{why} ({count} times)"
