"""How many workers there are to be, and to how many it goes back. Pure.

A pause lets all of them go until somebody scales or reloads. A reload may bring another number
along, which comes into force with its code, unless somebody has asked for another meanwhile.
"""

from __future__ import annotations

from obworker.supervisor.table import Table


class Scaling:
    """Resizes a table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._paused = 0
        self._coming: int | None = None

    def scale(self, size: int) -> None:
        """Have so many, also after a reload that is under way."""
        self._table.resize(size)
        self._coming = None

    def pause(self) -> None:
        """Have none for a while."""
        self._paused = self._unpaused
        self._table.resize(0)

    def reload(self, size: int | None) -> None:
        """End a pause; keep in mind what new settings say, None if they say nothing new."""
        self._table.resize(self._unpaused)
        self._coming = size

    def reloaded(self) -> None:
        """Have as many as the settings say that have come into force."""
        if self._coming and self._table.wanted:
            self._table.resize(self._coming)
        elif self._coming:
            self._paused = self._coming
        self._coming = None

    @property
    def _unpaused(self) -> int:
        return self._table.wanted or self._paused
