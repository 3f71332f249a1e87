"""Where a connection moves, with the request it holds, to whichever worker is free.

Theory of operation. One pair of SOCK_SEQPACKET sockets is made before the first fork, and every
process has both ends: any of them puts, any of them takes, and the kernel keeps the order. A
message is a *parcel*: a header, the connection (SCM_RIGHTS, unix(7)) and the request as it came,
inline where it is small and else in a memfd. It says all there is to say, so whoever takes it can
put it back.

What waits is charged to the send buffer of the one end that all put into, with what the kernel
needs beside it: 768 bytes for a parcel with a memfd, 1280 for a request of 100 to 680 bytes, 36 KB
for one of 32. So the buffer that was granted decides what goes inline: without CAP_NET_ADMIN it is
mostly 416 KiB. Descriptors in flight count against RLIMIT_NOFILE of the user who put them
(getrlimit(2)), unless that is root. For either reason there may be no room, and the request stays
where it is.

The bound of the queue is a semaphore beside it, an eventfd(2), whose value is the free places: who
queues a request takes one, here or within the worker, and gives it back when the request is begun.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("obworker.http")

HEADER = struct.Struct("=4sIdQ")
MAGIC = b"OBX\x01"
LENT = struct.Struct("=i")
CONTROL_BYTES = socket.CMSG_SPACE(2 * LENT.size)
CUT = socket.MSG_TRUNC | socket.MSG_CTRUNC

PLACES_PER_WORKER = 100
"""How many requests may wait for each worker, where nobody says otherwise."""

SO_SNDBUFFORCE = getattr(socket, "SO_SNDBUFFORCE", 32)  # <asm-generic/socket.h>
# The kernel doubles it (socket(7)), and uses it only while parcels wait.
SEND_BUFFER_BYTES = 16 << 20
MOST_INLINE_BYTES = 32 << 10
# The part of the send buffer that one request may take.
INLINE_SHARE = 1024

NO_ROOM = frozenset(
    {
        *(errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM),
        *(errno.EMFILE, errno.ENFILE, errno.ENOSPC),
    }
)


@dataclass(eq=False)
class Parcel:
    """A connection that moves; it does not block, and belongs to whoever took the parcel.

    `received` is a whole request as it came, or nothing for a connection that is idle, `arrival`
    the monotonic instant at which it was whole, `attempt` how often it has moved before.
    """

    client: socket.socket
    received: bytes
    arrival: float
    attempt: int


class Exchange:
    """The queue of all workers; no method waits."""

    def __init__(self, reader: int, writer: int, room: int) -> None:
        self._reader = socket.socket(fileno=reader)
        self._writer = socket.socket(fileno=writer)
        self._room = room
        self._places = 0
        for end in (self._reader, self._writer):
            end.setblocking(False)
        granted = self._writer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._inline_bytes = min(MOST_INLINE_BYTES, granted // INLINE_SHARE)

    @classmethod
    def create(cls, places: int) -> Exchange:
        """Make an exchange for requests in so many places."""
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _enlarge(writer)
        room = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        exchange = cls(reader.detach(), writer.detach(), room)
        exchange.resize(places)
        return exchange

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """What another process makes an Exchange from, once it has inherited them."""
        return self._reader.fileno(), self._writer.fileno(), self._room

    def fileno(self) -> int:
        """Return the descriptor that is readable when a parcel waits."""
        return self._reader.fileno()

    def close(self) -> None:
        """Close what this process has of it; what waits is lost with the last process."""
        self._reader.close()
        self._writer.close()
        os.close(self._room)

    # the parcels

    def put(self, client: socket.socket, received: bytes, arrival: float, attempt: int) -> bool:
        """Send a parcel, if there is room; then the caller closes its own copy of the connection.

        Not before it has taken it out of its epoll instance: closing does not, for the connection
        lives on (epoll(7)).
        """
        header = HEADER.pack(MAGIC, attempt, arrival, len(received))
        try:
            if len(received) <= self._inline_bytes:
                self._send(header, received, client.fileno())
                return True
            return self._send_by_memfd(header, received, client.fileno())
        except OSError as error:
            if error.errno in NO_ROOM:
                return False
            raise

    def _send_by_memfd(self, header: bytes, received: bytes, client: int) -> bool:
        descriptor = os.memfd_create("obworker-parcel", os.MFD_CLOEXEC)
        try:
            if os.write(descriptor, received) < len(received):
                return False
            self._send(header, b"", client, descriptor)
            return True
        finally:
            os.close(descriptor)

    def _send(self, header: bytes, inline: bytes, *descriptors: int) -> None:
        lent = b"".join(map(LENT.pack, descriptors))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, lent)
        self._writer.sendmsg((header, inline), (rights,))

    def take(self) -> Parcel | None:
        """Receive the first parcel that waits, if there is one; skip what is none.

        Raises:
            OSError: this process has no free descriptors (EMFILE); nothing was taken.
        """
        while True:
            self._find_room()
            try:
                message, control, flags, _ = self._reader.recvmsg(
                    HEADER.size + MOST_INLINE_BYTES, CONTROL_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            descriptors = _descriptors(control)
            try:
                parcel = _unpack(message, descriptors, is_cut=bool(flags & CUT))
            except (ValueError, OSError) as error:
                _close(descriptors)
                logger.warning("dropped what is no connection from another worker: %s", error)
            else:
                _close(descriptors[1:])
                return parcel

    def _find_room(self) -> None:
        """Raise OSError where a parcel's two descriptors cannot be installed.

        The kernel would drop them, and with them the connection (cmsg(3), MSG_CTRUNC).
        """
        first = os.dup(self._room)
        try:
            os.close(os.dup(self._room))
        finally:
            os.close(first)

    def oldest(self) -> float | None:
        """Return the arrival of the first parcel that waits; 0 for what `take` would skip."""
        try:
            message = self._reader.recv(HEADER.size, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        if len(message) < HEADER.size:
            return 0.0
        magic, _, arrival, _ = HEADER.unpack(message)
        return float(arrival) if magic == MAGIC else 0.0

    # the places

    def reserve(self) -> bool:
        """Take a place, if one is free."""
        try:
            os.eventfd_read(self._room)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give a place back."""
        os.eventfd_write(self._room, 1)

    def taken(self) -> int | None:
        """Return how many places are taken; for the process that created it.

        None where the kernel does not tell (proc(5), /proc/PID/fdinfo).
        """
        try:
            said = Path(f"/proc/self/fdinfo/{self._room}").read_text()
            free = said.partition("eventfd-count:")[2].split()[0]
        except (OSError, IndexError):
            return None
        return self._places - int(free, 16)

    def resize(self, places: int) -> None:
        """Have so many places in all; for the process that created it.

        Those that are too many and taken stay until it is called again.
        """
        while self._places > places and self.reserve():
            self._places -= 1
        if self._places < places:
            os.eventfd_write(self._room, places - self._places)
            self._places = places


def _enlarge(writer: socket.socket) -> None:
    """Get the largest send buffer: what we ask for, or what net.core.wmem_max allows."""
    try:
        writer.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
    except PermissionError:
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    """Return what was installed."""
    return [
        descriptor
        for level, kind, lent in control
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
        for (descriptor,) in LENT.iter_unpack(lent)
    ]


def _unpack(message: bytes, descriptors: list[int], *, is_cut: bool) -> Parcel:
    """Return a parcel that owns its connection, and only that.

    Raises:
        ValueError: the message is not ours, or not whole.
        OSError: a descriptor is not what it should be.
    """
    if is_cut or len(message) < HEADER.size or not descriptors:
        raise ValueError("it is not whole")
    magic, attempt, arrival, size = HEADER.unpack_from(message)
    if magic != MAGIC:
        raise ValueError("it is not ours")
    received = message[HEADER.size :] if len(descriptors) == 1 else _read(descriptors[1], size)
    if len(received) != size:
        raise ValueError(f"it has {len(received)} bytes of {size}")
    # With the type given, Python asks the kernel for less and does not set what is set already.
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    client = socket.socket(type=kind, proto=0, fileno=descriptors[0])
    return Parcel(client, received, arrival, attempt)


def _read(memfd: int, size: int) -> bytes:
    """Return what a memfd holds, which nobody else has any more."""
    return os.pread(memfd, min(size, os.fstat(memfd).st_size), 0)
