"""What bodies that come in parts are collected in: the heap, or a spool where they will move.

Theory of operation. A large block of the heap is dear because of its pages: glibc's malloc gives it
back to the kernel as soon as it is freed, which clears every page of the next. But malloc learns:
up to the size of the largest block that it has given back by munmap(2), it takes blocks from its
arenas, and of these it leaves twice as much free (mallopt(3), M_MMAP_THRESHOLD). So it is shown a
block, of which no page is ever touched, for what a body takes, and what is made of it.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

from obworker.http.spool import Spool, Spools

if TYPE_CHECKING:
    from obworker.http.queue import RequestQueue

# What is not longer has mostly come in one piece, and is collected nowhere.
LARGE = 64 << 10
LESSON = 4
# It does not learn from more than 32 MiB.
MOST_LESSON_BYTES = 31 << 20


class Bodies:
    """Knows where a body will be needed."""

    def __init__(self, spools: Spools, queue: RequestQueue) -> None:
        self._spools = spools
        self._queue = queue
        self._taught = LARGE

    def open_for(self, length: int) -> io.BytesIO | Spool:
        """Return what a body of so many bytes is collected in."""
        if length < LARGE:
            return io.BytesIO()
        self._teach(length)
        spool = self._spools.open_for(length) if self._queue.would_move else None
        return io.BytesIO() if spool is None else spool

    def _teach(self, length: int) -> None:
        size = min(LESSON * length, MOST_LESSON_BYTES)
        if size > self._taught:
            self._taught = size
            with contextlib.suppress(MemoryError):
                bytes(size)
