"""How many workers there should be. Pure.

A pause lets all workers leave until the next scaling or reload. A reload may have another number
in its settings: it takes effect together with the new code, unless a scaling came in between.
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
        """Have `size` workers, whatever a reload that is under way says."""
        self._table.resize(size)
        self._coming = None

    def pause(self) -> None:
        """Have no workers for now."""
        self._paused = self._unpaused
        self._table.resize(0)

    def reload(self, size: int | None) -> None:
        """End a pause; `size` is the number in new settings, None if it is the old one."""
        self._table.resize(self._unpaused)
        self._coming = size

    def reloaded(self) -> None:
        """Have as many workers as the new settings say, as these have taken effect."""
        if self._coming and self._table.wanted:
            self._table.resize(self._coming)
        elif self._coming:
            self._paused = self._coming
        self._coming = None

    @property
    def _unpaused(self) -> int:
        return self._table.wanted or self._paused
