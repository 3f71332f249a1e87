"""When a master's loop is to wake, and whether it then may take anybody for late. Pure.

It wakes for events, for the nearest deadline, and at least once a second. If the loop itself was
late, because the machine slept or the process was stopped, a deadline that has passed meanwhile
proves nothing: then everybody has a second to catch up first.
"""

from __future__ import annotations

TICK = 1.0
LATE = 5 * TICK


def earliest(*deadlines: float | None) -> float | None:
    """Return the first of some instants; None means never."""
    return min((due for due in deadlines if due is not None), default=None)


class Alarm:
    """The clock of one loop."""

    def __init__(self) -> None:
        self._due = 0.0
        self._fair_from = 0.0

    def set(self, now: float, *deadlines: float | None) -> float:
        """Return how long to sleep: until the first of `deadlines`, or for a TICK."""
        due = min(due for due in (*deadlines, now + TICK) if due is not None)
        self._due = max(now, due, self._fair_from)
        return self._due - now

    def woke(self, now: float) -> bool:
        """Note that the loop woke; return whether it may act on deadlines that have passed."""
        if now >= self._due + LATE:
            self._fair_from = now + TICK
        return now >= self._fair_from
