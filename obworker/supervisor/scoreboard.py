"""What the processes of one obworker know of one another: in shared memory, no locks, no files.

The master makes the pages before the first child, and all processes map them (memfd_create(2)).
Every field has one writer: the master for what it decides, a worker for its own requests, the admin
process for readings of GPUs. A number is aligned and at most eight bytes, so a reader sees the old
value or the new one, and never a mix. A text may be read half written; it is for people.

Times are those of the system's monotonic clock, which all processes share; 0 means never.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import os
from collections.abc import Collection, Iterator
from typing import Annotated, TypeVar, get_type_hints

from obworker.http.tally import BUCKETS, CODES

MAX_SLOTS = 1024
# 16 GPUs with 7 MIG instances each.
MAX_GPUS = 112
# While a worker is replaced, the old and the new process share a slot.
SEATS_PER_SLOT = 2
# One of the current generation, and one of a reload.
MAX_MOLDS = 2
ID_BYTES = 64


class Phase(enum.IntEnum):
    """What the service as a whole is doing."""

    STARTING = 0
    SERVING = 1
    RELOADING = 2
    STOPPING = 3


class State(enum.IntEnum):
    """The states of a seat; the transitions are in slots.py."""

    EMPTY = 0
    SPAWNING = 1
    BOOTING = 2
    IDLE = 3
    BUSY = 4
    DRAINING = 5
    DUMPING = 6
    ABORTING = 7
    KILLING = 8
    STUCK = 9
    REAPED = 10
    BACKOFF = 11
    RETIRED = 12


SERVING = frozenset((State.IDLE, State.BUSY))


class Cause(enum.IntEnum):
    """Why a process ended unexpectedly."""

    BOOT = 0  # it was never ready
    EXIT = 1  # it exited by itself
    SIGNAL = 2  # it was killed: by somebody, or by the kernel for a fault such as SIGSEGV
    OOM = 3  # the kernel killed it for memory
    LATE = 4  # it missed a deadline, and the master ended it
    LEFT = 5  # it gave a reason, and drained
    DEVICE = 6  # its GPU failed


# Annotations of fields have two types: that in Python, and that in the shared pages.
UInt32 = Annotated[int, ctypes.c_uint32]
UInt64 = Annotated[int, ctypes.c_uint64]
Double = Annotated[float, ctypes.c_double]
UInt32s = ctypes.Array[ctypes.c_uint32]
UInt64s = ctypes.Array[ctypes.c_uint64]


class _Record(ctypes.Structure):
    """A record with text fields: a str is cut to the size of its field."""

    def write_text(self, field: str, text: str) -> None:
        size = getattr(type(self), field).size
        setattr(self, field, text.encode("utf-8", "replace")[: size - 1])

    def read_text(self, field: str) -> str:
        raw: bytes = getattr(self, field)
        return raw.decode("utf-8", "replace")


Record = TypeVar("Record", bound=ctypes.Structure)


def _laid_out(record: type[Record]) -> type[Record]:
    """Give a structure the fields that its annotations declare."""
    hints = get_type_hints(record, include_extras=True)
    record._fields_ = tuple((name, hint.__metadata__[0]) for name, hint in hints.items())
    return record


@_laid_out
class Header(_Record):
    """The service as a whole; written by the master."""

    master_pid: UInt32
    mold_pids: Annotated[UInt32s, ctypes.c_uint32 * MAX_MOLDS]
    phase: UInt32
    generation: UInt32
    slots: UInt32  # the number of rows in use
    wanted: UInt32  # the number of workers there should be
    min_ready: UInt32
    queue_limit: UInt32
    queued: Annotated[int, ctypes.c_int32]  # requests that wait, in all workers; -1: not known
    started_at: Double
    beat: Double  # when the master's loop last ran
    reloads: UInt32
    reload_failure: Annotated[bytes, ctypes.c_char * 512]  # of the last one; empty: it did not fail
    address: Annotated[bytes, ctypes.c_char * 1024]
    label: Annotated[bytes, ctypes.c_char * 256]


@_laid_out
class SlotRow(_Record):
    """What a slot keeps when processes come and go; written by the master."""

    device: Annotated[bytes, ctypes.c_char * 256]
    exits: Annotated[UInt32s, ctypes.c_uint32 * len(Cause)]  # unexpected ends
    last_exit: Annotated[bytes, ctypes.c_char * 256]
    last_exit_at: Double
    quarantine: Annotated[bytes, ctypes.c_char * 256]  # why the device is in it; empty: it is not
    quarantined_until: Double

    @property
    def restarts(self) -> int:
        """How many unexpected ends there were."""
        return sum(self.exits)

    def note_exit(self, cause: Cause, text: str, now: float) -> None:
        """Count an unexpected end, and keep a text about it for people."""
        self.exits[cause] += 1
        self.last_exit_at = now
        self.write_text("last_exit", text)


@_laid_out
class SeatRow(_Record):
    """One process of a slot. The master writes the first part, the worker the second.

    The third part is also written by the worker, and stays when it has gone: the next worker counts
    on from there, so these counters never fall.
    """

    pid: UInt32
    state: UInt32
    generation: UInt32
    spawned_at: Double
    ready_at: Double

    beat: Double  # when the worker's event loop last ran
    deadline: Double  # the first of the requests in predict; infinite: none
    begun_at: Double  # when that request entered predict; 0: nothing is in predict
    in_flight: UInt32  # requests in predict
    waiting: UInt32  # places in the queue that only the worker can give back
    request_id: Annotated[bytes, ctypes.c_char * ID_BYTES]
    request_line: Annotated[bytes, ctypes.c_char * 160]

    requests: UInt64  # requests that predict has finished
    no_memory: UInt64  # times that memory, a GPU's or the machine's, was short
    # of http/tally.py, as of the worker's last beat
    responses: Annotated[UInt64s, ctypes.c_uint64 * len(CODES)]
    buckets: Annotated[UInt64s, ctypes.c_uint64 * len(BUCKETS)]
    seconds: Double

    def clear(self) -> None:
        """Forget the process that was here, but keep its counters."""
        counts: int = type(self).__dict__["requests"].offset
        ctypes.memset(ctypes.addressof(self), 0, counts)

    def describe_request(self, now: float) -> str:
        """Describe the request in predict: which, for how long, and its id if it has one."""
        line, id_ = self.read_text("request_line"), self.read_text("request_id")
        named = f", request {id_}" if id_ else ""
        return f"{line or 'a request'} ({now - self.begun_at:.1f} s{named})"


@_laid_out
class GpuRow(_Record):
    """A reading of a GPU; written by the admin process. NaN means not known."""

    gpu: UInt32  # its index
    uuid: Annotated[bytes, ctypes.c_char * 96]
    name: Annotated[bytes, ctypes.c_char * 96]
    memory_used: Double
    memory_total: Double
    utilisation: Double
    temperature: Double
    read_at: Double


@_laid_out
class _Layout(ctypes.Structure):
    header: Annotated[Header, Header]
    slots: Annotated[ctypes.Array[SlotRow], SlotRow * MAX_SLOTS]
    seats: Annotated[ctypes.Array[SeatRow], SeatRow * (MAX_SLOTS * SEATS_PER_SLOT)]
    gpus: Annotated[ctypes.Array[GpuRow], GpuRow * MAX_GPUS]


class Scoreboard:
    """The shared pages, mapped into this process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._pages = mmap.mmap(descriptor, ctypes.sizeof(_Layout))
        self._layout = _Layout.from_buffer(self._pages)

    @classmethod
    def create(cls) -> Scoreboard:
        """Make the pages; only those that are written take memory."""
        descriptor = os.memfd_create("obworker-scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, ctypes.sizeof(_Layout))
        board = cls(descriptor)
        board.header.queued = -1
        return board

    @property
    def header(self) -> Header:
        """The row of the service as a whole."""
        return self._layout.header

    def slot(self, index: int) -> SlotRow:
        """Return the row of a slot."""
        return self._layout.slots[index]

    def seat(self, slot: int, seat: int) -> SeatRow:
        """Return the row of one of a slot's seats."""
        return self._layout.seats[slot * SEATS_PER_SLOT + seat]

    def seats(self, slot: int) -> tuple[SeatRow, ...]:
        """Return the rows of all seats of a slot."""
        return tuple(self.seat(slot, seat) for seat in range(SEATS_PER_SLOT))

    @property
    def rows(self) -> Iterator[SeatRow]:
        """All seats of the slots that are in use."""
        return (row for slot in range(self.header.slots) for row in self.seats(slot))

    @property
    def gpus(self) -> list[GpuRow]:
        """The rows of all GPUs, used or not."""
        return list(self._layout.gpus)

    def serves_beside(self, row: SeatRow) -> bool:
        """Whether any other process than that of `row` serves."""
        mine = ctypes.addressof(row)
        return any(
            other.state in SERVING and ctypes.addressof(other) != mine for other in self.rows
        )

    def count_serving(self, ended: Collection[int] = ()) -> int:
        """Return how many slots have a process that serves, without those that have `ended`."""
        return sum(
            any(row.state in SERVING and row.pid not in ended for row in self.seats(slot))
            for slot in range(self.header.slots)
        )
