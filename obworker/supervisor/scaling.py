"""How many workers there should be, and what that number is restored to. Pure.

A pause lets all workers leave until the next scaling or reload. A reload may have another number
in its settings; if it fails, the number before is restored, or the last one asked for meanwhile.
"""

from __future__ import annotations

from obworker.supervisor.table import Table


class Scaling:
    """Resizes a table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._paused = self._before_reload = 0

    def scale(self, size: int) -> None:
        """Have `size` workers, also after a reload that fails."""
        self._table.resize(size)
        self._before_reload = size

    def pause(self) -> None:
        """Have no workers for now."""
        self._paused = self._unpaused
        self._table.resize(0)

    def begin_reload(self) -> None:
        """Remember how many there are."""
        self._before_reload = self._unpaused

    def reload(self, size: int | None) -> None:
        """Have as many as new settings say, or as before if `size` is None; this ends a pause."""
        self._table.resize(size or self._unpaused)

    def undo_reload(self) -> None:
        """Have as many as before the reload, unless there was a pause since."""
        if self._table.wanted:
            self._table.resize(self._before_reload)

    @property
    def _unpaused(self) -> int:
        return self._table.wanted or self._paused
