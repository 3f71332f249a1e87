"""When a service may say that it is not ready: workers were sent away and it is not whole yet."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable


class Absences:
    """Workers that were told to go, and what follows of that."""

    def __init__(self) -> None:
        self._leaving: set[int] = set()
        self._is_whole = True
        self._is_paused = False
        self._lock = threading.Lock()

    def begin(self, workers: Iterable[int], *, paused: bool = False) -> None:
        """Note workers that are about to be told to go; none comes in their place while paused."""
        with self._lock:
            self._leaving.update(workers)
            self._is_paused |= paused
            self._is_whole = False

    def end_pause(self) -> None:
        """Note that workers come again."""
        with self._lock:
            self._is_paused = False

    def explain_unreadiness(self) -> bool:
        """Tell whether it may be."""
        with self._lock:
            return not self._is_whole

    def see(self, there: Collection[int]) -> None:
        """Note that the service is whole by its own account, and which workers there are.

        It may not know yet that one of them has gone; and one that was told to go, and has not,
        may be about to take the place of one that serves.
        """
        with self._lock:
            if not self._is_paused and self._leaving.isdisjoint(there):
                self._leaving.clear()
                self._is_whole = True
