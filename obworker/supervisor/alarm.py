"""When a master's loop is to wake, and whether it then may take anybody for late. Pure.

It wakes for an event, for the nearest deadline, and for a look now and then. Where it was late
itself, because the machine slept or somebody stopped the process, a deadline that passed in that
time proves nothing: everybody gets one round to catch up.
"""

from __future__ import annotations

TICK = 1.0
LATE = 5 * TICK


def earliest(*deadlines: float | None) -> float | None:
    """Return the first of some moments; None is never."""
    return min((due for due in deadlines if due is not None), default=None)


class Alarm:
    """The clock of one loop."""

    def __init__(self) -> None:
        self._due = 0.0
        self._fair_from = 0.0

    def set(self, now: float, *deadlines: float | None) -> float:
        """Wake at the first of `deadlines`, or for a look; return how long that is from now."""
        due = min(due for due in (*deadlines, now + TICK) if due is not None)
        self._due = max(now, due, self._fair_from)
        return self._due - now

    def woke(self, now: float) -> bool:
        """Note that the loop woke; return whether it was in time, and may judge by deadlines."""
        if now >= self._due + LATE:
            self._fair_from = now + TICK
        return now >= self._fair_from
