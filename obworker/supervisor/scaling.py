"""How many workers there are to be, and to how many it goes back. Pure.

A pause lets all of them go until somebody scales or reloads. A reload may bring another number
along; where it fails there are as many as before, or as somebody has asked for meanwhile.
"""

from __future__ import annotations

from obworker.supervisor.table import Table


class Scaling:
    """Resizes a table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._paused = self._before_reload = 0

    def scale(self, size: int) -> None:
        """Have so many, also after a reload that fails."""
        self._table.resize(size)
        self._before_reload = size

    def pause(self) -> None:
        """Have none for a while."""
        self._paused = self._unpaused
        self._table.resize(0)

    def begin_reload(self) -> None:
        """Keep in mind how many there were."""
        self._before_reload = self._unpaused

    def reload(self, size: int | None) -> None:
        """Have as many as new settings say, or None if they say nothing new; a pause is over."""
        self._table.resize(size or self._unpaused)

    def undo_reload(self) -> None:
        """Have as many as before, unless somebody has paused it since."""
        if self._table.wanted:
            self._table.resize(self._before_reload)

    @property
    def _unpaused(self) -> int:
        return self._table.wanted or self._paused
