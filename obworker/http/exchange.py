"""Moves connections, with the requests that they hold, to whichever worker is free.

Theory of operation. One pair of SOCK_SEQPACKET sockets is made before the first fork, and every
process has both ends: each can put and take, and the kernel keeps the order. A message is a
*parcel*: a header, the connection (SCM_RIGHTS, unix(7)) and the request as it came. A small request
is inline. Otherwise it is in a spool, the head after the body, as a large body was collected in a
spool, which is just sent. A parcel is complete, so whoever takes it can put it back.

Parcels that wait are charged to the send buffer of the one end that all processes write to, with
the kernel's overhead: 768 bytes for a parcel with a spool, 1280 for a request of 110 to 670 bytes,
36 KB for one of 32. So the size of the buffer decides what goes inline: without CAP_NET_ADMIN it is
mostly 416 KiB. Descriptors in flight count against RLIMIT_NOFILE of the user who sent them
(getrlimit(2)), unless that is root. For either reason there may be no room; then the request stays
where it is.

The length of the queue is limited by a semaphore, an eventfd(2) whose value is the number of free
places. A process that queues a request, here or within itself, takes a place, which is given back
when the request is begun.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from obworker.errors import ServiceUnavailable
from obworker.http.spool import Spool, Spools

logger = logging.getLogger("obworker.http")

HEADER = struct.Struct("=4sIdQQ")
MAGIC = b"OBX\x02"
LENT = struct.Struct("=i")
CONTROL_BYTES = socket.CMSG_SPACE(2 * LENT.size)
CUT = socket.MSG_TRUNC | socket.MSG_CTRUNC

PLACES_PER_WORKER = 100
"""How many requests may wait for each worker by default."""

SO_SNDBUFFORCE = getattr(socket, "SO_SNDBUFFORCE", 32)  # <asm-generic/socket.h>
# The kernel doubles it (socket(7)), and takes the memory only while parcels wait.
SEND_BUFFER_BYTES = 16 << 20
MOST_INLINE_BYTES = 32 << 10
# An inline request takes at most one part in this many of the send buffer.
INLINE_SHARE = 1024

NO_ROOM = frozenset(
    {
        *(errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM),
        *(errno.EMFILE, errno.ENFILE, errno.ENOSPC),
    }
)


@dataclass(eq=False)
class Parcel:
    """A connection that moves; it is non-blocking, and belongs to whoever has taken the parcel.

    `head` and `body` are a whole request as it came, empty for an idle connection. `arrival` is the
    monotonic time at which the request was whole, `attempt` how often it has moved before.
    """

    client: socket.socket
    head: bytes
    body: bytes | Spool
    arrival: float
    attempt: int


class Exchange:
    """The queue of all workers; no method blocks. `spools` are those of this process."""

    def __init__(self, reader: int, writer: int, room: int) -> None:
        self._reader = socket.socket(fileno=reader)
        self._writer = socket.socket(fileno=writer)
        self._room = room
        self._places = 0
        self.spools = Spools()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        granted = self._writer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._inline_bytes = min(MOST_INLINE_BYTES, granted // INLINE_SHARE)

    @classmethod
    def create(cls, places: int) -> Exchange:
        """Make an exchange with so many places."""
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _enlarge(writer)
        room = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        exchange = cls(reader.detach(), writer.detach(), room)
        exchange.resize(places)
        return exchange

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """What a process that has inherited them needs to make an Exchange of its own."""
        return self._reader.fileno(), self._writer.fileno(), self._room

    def fileno(self) -> int:
        """Return the descriptor that is readable when a parcel waits."""
        return self._reader.fileno()

    def close(self) -> None:
        """Close this process's descriptors; what waits is lost when the last process does."""
        self._reader.close()
        self._writer.close()
        os.close(self._room)
        self.spools.close()

    # the parcels

    def put(self, parcel: Parcel) -> bool:
        """Send a parcel, if there is room; then the caller closes its own copy of the connection.

        First it removes that from its epoll instance: closing does not, as the connection stays
        open elsewhere (epoll(7)). A spool is given away.
        """
        head, body = parcel.head, parcel.body
        header = HEADER.pack(MAGIC, parcel.attempt, parcel.arrival, len(head), len(body))
        client = parcel.client.fileno()
        try:
            if isinstance(body, Spool):
                self._send_with_spool(header, head, body, client)
            elif len(head) + len(body) <= self._inline_bytes:
                socket.send_fds(self._writer, [header, head, body], [client])
            else:
                self._send_with_spool(header, head, self._spooled(body), client)
        except ServiceUnavailable:
            return False
        except OSError as error:
            if error.errno in NO_ROOM:
                return False
            raise
        return True

    def _spooled(self, body: bytes) -> Spool:
        spool = self.spools.open()
        spool.write(body)
        return spool

    def _send_with_spool(self, header: bytes, head: bytes, spool: Spool, client: int) -> None:
        spool.write_after(head)
        socket.send_fds(self._writer, [header], [client, spool.descriptor])
        self.spools.give_away(spool)

    def take(self) -> Parcel | None:
        """Receive the first parcel that waits, if there is one; skip other messages.

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
            if not message and not descriptors:
                continue  # a nudge
            try:
                return self._unpack(message, descriptors, is_cut=bool(flags & CUT))
            except (ValueError, OSError) as error:
                for descriptor in descriptors:
                    os.close(descriptor)
                if _has_place(message):
                    self.release()
                logger.warning("dropped what is no connection from another worker: %s", error)

    def _unpack(self, message: bytes, descriptors: list[int], *, is_cut: bool) -> Parcel:
        """Return a parcel that owns the descriptors; if this raises, the caller still does.

        Raises:
            ValueError: the message is not ours, or not whole.
            OSError: a descriptor is not what it should be.
        """
        if is_cut or len(message) < HEADER.size or not descriptors:
            raise ValueError("it is not whole")
        magic, attempt, arrival, *sizes = HEADER.unpack_from(message)
        if magic != MAGIC:
            raise ValueError("it is not ours")
        body: bytes | Spool
        if len(descriptors) == 1:
            head, body = _split(message[HEADER.size :], *sizes)
            client = _socket(descriptors[0])
        else:
            head = _read_head(descriptors[1], *sizes)
            client = _socket(descriptors[0])
            body = self.spools.adopt(descriptors[1], sizes[1])
        return Parcel(client, head, body, arrival, attempt)

    def _find_room(self) -> None:
        """Raise OSError if this process has no room for the two descriptors of a parcel.

        The kernel would drop them, and with them the connection (cmsg(3), MSG_CTRUNC).
        """
        first = os.dup(self._room)
        try:
            os.close(os.dup(self._room))
        finally:
            os.close(first)

    def nudge(self) -> None:
        """Wake one more process for what waits already, by a message that `take` skips."""
        with contextlib.suppress(OSError):  # no room: the parcels that wait have woken others
            self._writer.send(b"")

    def oldest(self) -> float | None:
        """Return the arrival of the first parcel that waits; 0 for what `take` would skip."""
        try:
            message = self._reader.recv(HEADER.size, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        if len(message) < HEADER.size:
            return 0.0
        magic, _, arrival, _, _ = HEADER.unpack(message)
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
        """Return how many places are taken; for the process that created the exchange.

        None if the kernel does not tell (proc(5), /proc/PID/fdinfo). If more are free than exist,
        some were given back twice; this corrects it.
        """
        try:
            said = Path(f"/proc/self/fdinfo/{self._room}").read_text()
            free = said.partition("eventfd-count:")[2].split()[0]
        except (OSError, IndexError):
            return None
        taken = self._places - int(free, 16)
        while taken < 0 and self.reserve():
            taken += 1
        return taken

    def resize(self, places: int) -> None:
        """Set the number of places; for the process that created the exchange.

        Surplus places that are taken remain until this is called again.
        """
        while self._places > places and self.reserve():
            self._places -= 1
        if self._places < places:
            os.eventfd_write(self._room, places - self._places)
            self._places = places


def _enlarge(writer: socket.socket) -> None:
    """Set the size of the send buffer to what we want, or to what net.core.wmem_max allows."""
    try:
        writer.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
    except PermissionError:
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _has_place(message: bytes) -> bool:
    """Whether a message is a request, which has a place, even if its descriptors were lost."""
    if len(message) < HEADER.size:
        return False
    magic, _, _, head_size, _ = HEADER.unpack_from(message)
    return bool(magic == MAGIC and head_size)


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that were received."""
    return [
        descriptor
        for level, kind, lent in control
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
        for (descriptor,) in LENT.iter_unpack(lent)
    ]


def _split(inline: bytes, head_size: int, body_size: int) -> tuple[bytes, bytes]:
    if len(inline) != head_size + body_size:
        raise ValueError(f"it has {len(inline)} bytes of {head_size + body_size}")
    return inline[:head_size], inline[head_size:]


def _read_head(memfd: int, head_size: int, body_size: int) -> bytes:
    size = os.fstat(memfd).st_size
    if size < head_size + body_size:  # it may be larger, if it was used before
        raise ValueError(f"it has {size} bytes of {head_size + body_size}")
    return os.pread(memfd, head_size, body_size)


def _socket(descriptor: int) -> socket.socket:
    # Given the type, Python makes fewer system calls: it neither asks for it nor sets O_NONBLOCK.
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    return socket.socket(type=kind, proto=0, fileno=descriptor)
