"""Whether a client moves its bytes fast enough. Knows no clock."""

from __future__ import annotations

import math


class Pace:
    """Judges one direction of a connection by how many bytes have moved until now.

    A client must move something every `patience` seconds, and in each such time `rate` bytes a
    second on average: one byte now and then would keep a connection for ever.
    """

    __slots__ = ("_due", "_from", "_least", "_moved", "_moved_at", "_patience")

    def __init__(self, rate: int, patience: float) -> None:
        self._patience = patience
        self._least = rate * patience
        self._from = self._moved = 0
        self._moved_at = self._due = math.inf

    def start(self, now: float, moved: int) -> None:
        """Judge from here on."""
        self._from = self._moved = moved
        self._moved_at = now
        self._due = now + self._patience

    def is_too_slow(self, now: float, moved: int) -> bool:
        """Say so, once it is."""
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        if now - self._moved_at >= self._patience:
            return True
        if now < self._due:
            return False
        is_too_little = moved - self._from < self._least
        self._from, self._due = moved, now + self._patience
        return is_too_little
