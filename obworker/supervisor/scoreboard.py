"""What all processes of one obworker know of one another: one shared page set, no locks, no files.

Made by the master before the first child and mapped by everybody (memfd_create(2)). Every field
has one writer: the master for what it decides, a worker for its own requests, the admin process for
what it reads of GPUs. A number is aligned and at most eight bytes, so a reader sees the old value
or the new one and nothing between. A text may be read half written; it is for people.

Times are instants of the system's monotonic clock, the same for all processes; 0 is never.
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
# 16 GPUs of 7 MIG instances each.
MAX_GPUS = 112
# While a worker is replaced, the old and the new process share a slot.
SEATS_PER_SLOT = 2
# That of the current generation, and that of a reload.
MAX_MOLDS = 2
ID_BYTES = 64


class Phase(enum.IntEnum):
    """What the service as a whole is doing."""

    STARTING = 0
    SERVING = 1
    RELOADING = 2
    STOPPING = 3


class State(enum.IntEnum):
    """What a seat holds; the rules are in slots.py."""

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
    """Why a process ended that nobody had asked to."""

    BOOT = 0  # it was never ready
    EXIT = 1  # it exited by itself
    SIGNAL = 2  # somebody, or the kernel for a fault of its own, killed it
    OOM = 3  # the kernel killed it for memory
    LATE = 4  # it missed a deadline, and the master ended it
    LEFT = 5  # it said why, and drained
    DEVICE = 6  # its GPU failed


# A field is an annotation: its type in Python, and its type in the shared pages.
UInt32 = Annotated[int, ctypes.c_uint32]
UInt64 = Annotated[int, ctypes.c_uint64]
Double = Annotated[float, ctypes.c_double]
UInt32s = ctypes.Array[ctypes.c_uint32]
UInt64s = ctypes.Array[ctypes.c_uint64]


class _Record(ctypes.Structure):
    """A record whose texts can be set to any str: cut to what fits, read back as far as it went."""

    def write_text(self, field: str, text: str) -> None:
        size = getattr(type(self), field).size
        setattr(self, field, text.encode("utf-8", "replace")[: size - 1])

    def read_text(self, field: str) -> str:
        raw: bytes = getattr(self, field)
        return raw.decode("utf-8", "replace")


Record = TypeVar("Record", bound=ctypes.Structure)


def _laid_out(record: type[Record]) -> type[Record]:
    """Give a structure the fields that its annotations name."""
    hints = get_type_hints(record, include_extras=True)
    record._fields_ = tuple((name, hint.__metadata__[0]) for name, hint in hints.items())
    return record


@_laid_out
class Header(_Record):
    """The service; written by the master."""

    master_pid: UInt32
    mold_pids: Annotated[UInt32s, ctypes.c_uint32 * MAX_MOLDS]
    phase: UInt32
    generation: UInt32
    slots: UInt32  # rows from here on are not in use
    wanted: UInt32  # workers there are to be
    min_ready: UInt32
    queue_limit: UInt32
    queued: Annotated[int, ctypes.c_int32]  # requests that wait, in all workers; -1: not known
    started_at: Double
    beat: Double  # when the master's loop last turned
    reloads: UInt32
    reload_failure: Annotated[bytes, ctypes.c_char * 512]  # why the last failed; empty: it did not
    address: Annotated[bytes, ctypes.c_char * 1024]
    label: Annotated[bytes, ctypes.c_char * 256]


@_laid_out
class SlotRow(_Record):
    """What stays when processes come and go; written by the master."""

    device: Annotated[bytes, ctypes.c_char * 256]
    exits: Annotated[UInt32s, ctypes.c_uint32 * len(Cause)]  # ends that nobody asked for
    last_exit: Annotated[bytes, ctypes.c_char * 256]
    last_exit_at: Double
    quarantine: Annotated[bytes, ctypes.c_char * 256]  # why the device is left alone, if it is
    quarantined_until: Double

    @property
    def restarts(self) -> int:
        """How many ends there were that nobody asked for."""
        return sum(self.exits)

    def note_exit(self, cause: Cause, text: str, now: float) -> None:
        """Keep for people what an end was that nobody asked for."""
        self.exits[cause] += 1
        self.last_exit_at = now
        self.write_text("last_exit", text)


@_laid_out
class SeatRow(_Record):
    """One process of a slot. The first part is the master's, the second the worker's.

    The last part is a worker's too, and stays when it has gone: whoever comes next counts on, so
    what is read of it never falls.
    """

    pid: UInt32
    state: UInt32
    generation: UInt32
    spawned_at: Double
    ready_at: Double

    beat: Double  # when the worker's event loop last turned
    deadline: Double  # the earliest of the requests in predict; infinite: none
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
        """Forget the process that was here, and not what it has counted."""
        counts: int = type(self).__dict__["requests"].offset
        ctypes.memset(ctypes.addressof(self), 0, counts)

    def describe_request(self, now: float) -> str:
        """Say which request is in predict, for how long, and its id where it has one."""
        line, id_ = self.read_text("request_line"), self.read_text("request_id")
        named = f", request {id_}" if id_ else ""
        return f"{line or 'a request'} ({now - self.begun_at:.1f} s{named})"


@_laid_out
class GpuRow(_Record):
    """What a GPU's sensors said; written by the admin process. Not a number is not known."""

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
        """Make the pages, which take memory only where they are written."""
        descriptor = os.memfd_create("obworker-scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, ctypes.sizeof(_Layout))
        board = cls(descriptor)
        board.header.queued = -1
        return board

    @property
    def header(self) -> Header:
        """The service."""
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
        """Return the rows of GPUs."""
        return list(self._layout.gpus)

    def serves_beside(self, row: SeatRow) -> bool:
        """Whether a process serves that is not the one of `row`."""
        mine = ctypes.addressof(row)
        return any(
            other.state in SERVING and ctypes.addressof(other) != mine for other in self.rows
        )

    def count_serving(self, ended: Collection[int] = ()) -> int:
        """Return how many slots have a process that serves, and is not among those `ended`."""
        return sum(
            any(row.state in SERVING and row.pid not in ended for row in self.seats(slot))
            for slot in range(self.header.slots)
        )
