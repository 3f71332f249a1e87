"""Whether a client sends or reads fast enough. Pure."""

from __future__ import annotations

import math


class Pace:
    """Judges one direction of a connection by the number of bytes that have moved so far.

    Something must move within every `patience` seconds, and on average `rate` bytes a second in
    each period of that length: otherwise a byte now and then would keep a connection for ever.
    """

    __slots__ = ("_due", "_from", "_least", "_moved", "_moved_at", "_patience")

    def __init__(self, rate: int, patience: float) -> None:
        self._patience = patience
        self._least = rate * patience
        self._from = self._moved = 0
        self._moved_at = self._due = math.inf

    def start(self, now: float, moved: int) -> None:
        """Begin to judge."""
        self._from = self._moved = moved
        self._moved_at = now
        self._due = now + self._patience

    def is_too_slow(self, now: float, moved: int) -> bool:
        """Return whether it is too slow by now."""
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        if now - self._moved_at >= self._patience:
            return True
        if now < self._due:
            return False
        is_too_little = moved - self._from < self._least
        self._from, self._due = moved, now + self._patience
        return is_too_little
