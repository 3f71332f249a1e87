"""Watches for periods in which requests have to wait through no fault of the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from turmoil.ledger import Ledger
from turmoil.spells import Spell

LOOK_SECONDS = 0.1
BEAT_SECONDS = 0.02
# The clients are threads of one process and always wait for each other a little.
LATE_SECONDS = 0.1


class Attendance:
    """Records the periods in which no worker was ready."""

    def __init__(self, count_ready: Callable[[], int], ledger: Ledger) -> None:
        self._count_ready = count_ready
        self._ledger = ledger
        self._attended = time.monotonic()
        self._was_empty = False

    def run(self, over: threading.Event) -> None:
        """Look until `over` is set."""
        while not over.wait(LOOK_SECONDS):
            with suppress(OSError, ValueError):  # no report: the server's end is noticed elsewhere
                self.look()
        self._note(time.monotonic())

    def look(self) -> None:
        """Look once; a spell may have begun right after the previous look that found a worker."""
        began = time.monotonic()
        is_empty = self._count_ready() == 0
        if not is_empty:
            self._note(time.monotonic())
            self._attended = began
        self._was_empty = is_empty

    def _note(self, end: float) -> None:
        if self._was_empty:
            self._ledger.spells.append(Spell(self._attended, end))
            self._was_empty = False


def beat(ledger: Ledger, over: threading.Event) -> None:
    """Record the periods in which this process did not run, in which all the clients are."""
    last = time.monotonic()
    while not over.wait(BEAT_SECONDS):
        now = time.monotonic()
        if now - last > LATE_SECONDS:
            ledger.spells.append(Spell(last, now))
        last = now
