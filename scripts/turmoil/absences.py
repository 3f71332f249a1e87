"""When a service may say that it is not ready: workers were sent away and it is not whole yet."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from scorecards.processes import is_running


class Absences:
    """Workers that were told to go, and what follows of that."""

    def __init__(self) -> None:
        self._leaving: set[int] = set()
        self._count = 0
        self._is_whole = True
        self._is_paused = False
        self._lock = threading.Lock()

    def begin(self, workers: Iterable[int], *, paused: bool = False) -> None:
        """Note workers that are about to be told to go; none comes in their place while paused."""
        with self._lock:
            self._leaving.update(workers)
            self._is_paused |= paused
            self._is_whole = False
            self._count += 1

    def end_pause(self) -> None:
        """Note that workers come again."""
        with self._lock:
            self._is_paused = False

    def explain_unreadiness(self) -> bool:
        """Tell whether it may be."""
        with self._lock:
            return not self._is_whole

    def before_asking(self) -> int | None:
        """Return what `seen_whole` wants, taken before the service is asked; None: ask later."""
        with self._lock:
            is_over = not self._is_paused and not any(map(is_running, self._leaving))
            return self._count if is_over else None

    def seen_whole(self, count: int | None) -> None:
        """Note that the service said that every worker serves."""
        with self._lock:
            if count == self._count:
                self._leaving.clear()
                self._is_whole = True
