"""Where a body that arrives in parts is collected: on the heap, or in a spool if it will move.

Theory of operation. A large block on the heap is expensive because of its pages. glibc's malloc
gets it by mmap(2) and returns it to the kernel when it is freed, so the kernel has to clear every
page of the next one. But malloc adapts: when a block is freed that it got by mmap(2), blocks up to
that size come from its arenas from then on, of which it keeps twice as much free (mallopt(3),
M_MMAP_THRESHOLD). So before a large body comes, an even larger block is allocated and freed,
without touching any of its pages.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

from obworker.http.spool import Spool, Spools

if TYPE_CHECKING:
    from obworker.http.queue import RequestQueue

# A shorter body mostly arrives in one piece, and needs not be collected.
LARGE = 64 << 10
# The block is that many times as large as the body, for what is made of the body.
MARGIN = 4
# malloc's own limit of the threshold is 32 MiB.
MOST_THRESHOLD = 31 << 20


class Bodies:
    """Chooses where to collect each body."""

    def __init__(self, spools: Spools, queue: RequestQueue) -> None:
        self._spools = spools
        self._queue = queue
        self._threshold = LARGE

    def open_for(self, length: int) -> io.BytesIO | Spool:
        """Return what collects a body of `length` bytes."""
        if length < LARGE:
            return io.BytesIO()
        self._raise_threshold(length)
        spool = self._spools.open_for(length) if self._queue.would_move else None
        return io.BytesIO() if spool is None else spool

    def _raise_threshold(self, length: int) -> None:
        size = min(MARGIN * length, MOST_THRESHOLD)
        if size > self._threshold:
            self._threshold = size
            with contextlib.suppress(MemoryError):
                bytes(size)
