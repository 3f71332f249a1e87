"""Who looks, all the while, for what makes requests wait and is not the server's fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from turmoil.ledger import Ledger
from turmoil.spells import Spell

LOOK_SECONDS = 0.1
BEAT_SECONDS = 0.02
# The clients are threads, and wait for each other anyway.
LATE_SECONDS = 0.1


class Attendance:
    """Notes when there was no worker that was ready."""

    def __init__(self, count_ready: Callable[[], int], ledger: Ledger) -> None:
        self._count_ready = count_ready
        self._ledger = ledger
        self._attended = time.monotonic()
        self._was_empty = False

    def run(self, over: threading.Event) -> None:
        """Go on until it is over."""
        while not over.wait(LOOK_SECONDS):
            with suppress(OSError, ValueError):  # it says nothing: its end is found elsewhere
                self.look()
        self._note(time.monotonic())

    def look(self) -> None:
        """Look once; the spell began, at the earliest, with the look before."""
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
    """Note when this process, which is all the clients', did not run."""
    last = time.monotonic()
    while not over.wait(BEAT_SECONDS):
        now = time.monotonic()
        if now - last > LATE_SECONDS:
            ledger.spells.append(Spell(last, now))
        last = now
