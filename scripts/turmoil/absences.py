"""Knows when a service may report that it is not ready.

It may from the moment at which the operator tells workers to leave until the service has all of its
workers again.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable


class Absences:
    """The workers that were told to leave, and whether the service has recovered from that."""

    def __init__(self) -> None:
        self._leaving: set[int] = set()
        self._is_whole = True
        self._is_paused = False
        self._lock = threading.Lock()

    def begin(self, workers: Iterable[int], *, paused: bool = False) -> None:
        """Note workers that are about to be told to leave.

        A paused service does not replace them.
        """
        with self._lock:
            self._leaving.update(workers)
            self._is_paused |= paused
            self._is_whole = False

    def end_pause(self) -> None:
        """Note that the service starts workers again."""
        with self._lock:
            self._is_paused = False

    def explain_unreadiness(self) -> bool:
        """Tell whether the service may report at present that it is not ready."""
        with self._lock:
            return not self._is_whole

    def see(self, there: Collection[int]) -> None:
        """Note that the service reports all is well, and which workers it has.

        That alone proves nothing while a worker which was told to leave is still among them: the
        service may not have noticed yet that it is gone, or it has not left yet and the service
        will be short of a worker soon.
        """
        with self._lock:
            if not self._is_paused and self._leaving.isdisjoint(there):
                self._leaving.clear()
                self._is_whole = True
