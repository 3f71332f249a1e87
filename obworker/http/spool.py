"""Large bodies in memory files (memfd_create(2)), with which they move to other workers.

Theory of operation. A large body is expensive not because it is copied, but because of the new
pages that it is copied to: the kernel takes 1.4 µs to find and clear one, which is 0.35 ms for 1
MiB, and 0.05 ms to copy 1 MiB. So a body that will probably move is written to a *spool* as it
arrives. The spool moves with the connection, and is read once, by the thread that calls predict.

A spool that nothing refers to any more is kept as a spare, for the next body, even if it came from
another worker: so spools go round among workers. Spares that are not needed for a while are closed.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from obworker.errors import ServiceUnavailable

# No call reads or writes more than 2 GiB (read(2)).
MOST_BYTES = 1 << 30
# Each has a descriptor. A body for which there is none is collected on the heap.
MOST_IN_USE = 16
MOST_SPARE = 4
MOST_SPARE_BYTES = 16 << 20
SPARE_TIME = 2.0

GIVEN_AWAY = -1
NO_MEMORY = "there is no memory for the body; try again"
WHY = "there was no memory for a body"


class Spool:
    """The first bytes of a memory file, as many as it is long."""

    __slots__ = ("_size", "_spools", "descriptor")

    def __init__(self, spools: Spools, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self._size = size
        self._spools = spools

    def __len__(self) -> int:
        return self._size

    def __del__(self) -> None:
        self._spools.take_back(self.descriptor)

    def tell(self) -> int:
        """Return how long it is, as a file that is written to."""
        return self._size

    def write(self, part: bytes) -> None:
        """Add a part.

        Raises:
            ServiceUnavailable: there is no memory for it.
        """
        self.write_after(part)
        self._size += len(part)

    def write_after(self, part: bytes) -> None:
        """Write behind the body in the file, without making the body longer.

        Raises:
            ServiceUnavailable: there is no memory for that.
        """
        try:
            written = os.pwrite(self.descriptor, part, self._size)
        except OSError as error:
            raise ServiceUnavailable(NO_MEMORY, why=WHY) from error
        if written < len(part):
            raise ServiceUnavailable(NO_MEMORY, why=WHY)

    def read(self) -> bytes:
        """Return all of it."""
        return os.pread(self.descriptor, self._size, 0)


class Spare(NamedTuple):
    """A memory file for the next body, and what it holds."""

    descriptor: int
    size: int


class Spools:
    """The spools of a process; for the event loop's thread, except that any may free a Spool."""

    def __init__(self) -> None:
        self._in_use: set[int] = set()
        self._spare: list[Spare] = []
        self._unneeded = 0
        self._trim_due = 0.0
        self._most_spare = MOST_SPARE

    def open_for(self, length: int) -> Spool | None:
        """Return an empty spool for a body, if there may be one."""
        if length > MOST_BYTES or len(self._in_use) >= MOST_IN_USE:
            return None
        try:
            return self.open()
        except OSError:  # no descriptor is free, above all
            return None

    def open(self) -> Spool:
        """Return an empty spool.

        Raises:
            OSError: there can be none.
        """
        if not self._spare:
            return self.adopt(os.memfd_create("obworker-spool", os.MFD_CLOEXEC), 0)
        spare = self._spare.pop()
        self._unneeded = min(self._unneeded, len(self._spare))
        return self.adopt(spare.descriptor, 0)

    def adopt(self, descriptor: int, size: int) -> Spool:
        """Return the spool in a memory file that came from another worker."""
        self._in_use.add(descriptor)
        return Spool(self, descriptor, size)

    def give_away(self, spool: Spool) -> None:
        """Close a spool here after it was sent to another process."""
        self._in_use.discard(spool.descriptor)
        os.close(spool.descriptor)
        spool.descriptor = GIVEN_AWAY

    def take_back(self, descriptor: int) -> None:
        """Keep a file for another body, unless it was given away; on any thread."""
        if descriptor == GIVEN_AWAY:
            return
        self._in_use.discard(descriptor)
        size = os.fstat(descriptor).st_size
        kept = sum(spare.size for spare in self._spare)
        if len(self._spare) < self._most_spare and kept + size <= MOST_SPARE_BYTES:
            self._spare.append(Spare(descriptor, size))
        else:
            os.close(descriptor)

    def trim(self, now: float) -> None:
        """Close the spares that were not needed since the last time; call it now and then."""
        if now < self._trim_due:
            return
        self._trim_due = now + SPARE_TIME
        for _ in range(self._unneeded):
            os.close(self._spare.pop(0).descriptor)
        self._unneeded = len(self._spare)

    def close(self) -> None:
        """Close the spares, and keep no more."""
        self._most_spare = 0
        while self._spare:
            os.close(self._spare.pop().descriptor)
