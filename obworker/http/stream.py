"""A client's socket: receives, keeps what is yet to be sent, and closes in several ways.

Nothing here blocks. What the kernel does not take at once is kept, and sent when it does. Producers
must check `is_clogged` before they send more.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections import deque
from typing import TYPE_CHECKING

from obworker.http.reactor import READ, WRITE, Reactor

if TYPE_CHECKING:
    from obworker.http.pace import Pace
    from obworker.http.tls import TlsSocket

READ_SIZE = 64 << 10
# Used after a full read, as more will follow. It still fits in the processor's cache.
LARGE_READ_SIZE = 256 << 10
# While more than this is unsent, the next part has to wait.
CLOGGED_AT = 64 << 10


class Garbled(ConnectionError):
    """Nothing more that the client sends can be understood; sending to it still works."""


class Owner:
    """Receives the events of a stream; this base class ignores them."""

    def on_received(self, chunk: bytes) -> None:
        """Take what has arrived."""

    def on_garbled(self, why: str) -> None:
        """Note that what arrives cannot be understood; TLS has told the client if it could."""

    def on_end(self) -> None:
        """Note that the client has closed its half."""

    def on_flushed(self) -> None:
        """Note that all kept bytes have been sent."""

    def on_lost(self) -> None:
        """Note that the connection is lost; called at most once, and not after `close`."""


# Owns closed streams: else they and their owners would be kept until a garbage collection.
_NO_OWNER = Owner()


class Stream:
    """Owns the socket of a client.

    `unsent` counts the bytes that wait to be sent, `kept` all that ever had to wait.
    """

    __slots__ = (
        "_closing",
        "_events",
        "_half_closing",
        "_owner",
        "_reactor",
        "_read_size",
        "_tls",
        "_unsent",
        "is_closed",
        "is_paused",
        "kept",
        "socket",
        "unsent",
    )

    def __init__(
        self,
        reactor: Reactor,
        client: socket.socket | TlsSocket,
        owner: Owner,
    ) -> None:
        self.socket = client
        self.unsent = self.kept = 0
        self.is_closed = self.is_paused = False
        self._reactor = reactor
        self._owner = owner
        self._read_size = READ_SIZE
        self._tls = None if isinstance(client, socket.socket) else client
        self._unsent: deque[memoryview] = deque()
        self._half_closing = self._closing = False
        self._events = READ
        reactor.watch(client.fileno(), READ, self._on_events)

    def send(self, part: bytes) -> None:
        """Send a part; keep what the kernel does not take, to send it later."""
        if self._unsent:
            self._keep(memoryview(part))
            return
        try:
            sent = self.socket.send(part)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._lose()
            return
        if sent < len(part):
            self._keep(memoryview(part)[sent:])

    @property
    def is_shaking_hands(self) -> bool:
        """Whether a TLS handshake is under way, after which the client will send its request."""
        return self._tls is not None and self._tls.is_shaking_hands

    @property
    def is_at_rest(self) -> bool:
        """Whether no bytes wait here in either direction, and no TLS handshake is under way."""
        if self.unsent or self.is_shaking_hands:
            return False
        return fcntl.ioctl(self.socket.fileno(), termios.FIONREAD, bytes(4)) == bytes(4)

    @property
    def is_clogged(self) -> bool:
        """Whether so much waits to be sent that the next part has to wait for it."""
        return self.unsent > CLOGGED_AT

    def count_unsent(self) -> int:
        """Return how many bytes the client has not received, or 0 once the kernel has them all.

        Bytes in the kernel's buffer count (SIOCOUTQ, tcp(7)): it takes more only once a third of
        that is free, which may be megabytes. Until then a slow client would seem to read nothing.
        """
        if not self.unsent:
            return 0
        kernels = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(4))
        ahead = 0 if self._tls is None else self._tls.ahead
        return self.unsent - ahead + int.from_bytes(kernels, sys.byteorder)

    def pause_reading(self) -> None:
        """Stop reading for now; the loss of the connection is still noticed."""
        self.is_paused = True
        self._watch(self._events & ~READ)

    def resume_reading(self) -> None:
        """Read again, after `pause_reading`."""
        self.is_paused = False
        self._watch(self._events | READ)

    def close_half(self) -> None:
        """Close our half once all kept bytes are sent; reading goes on."""
        self.resume_reading()
        self._half_closing = True
        if not self._unsent:
            self._shut_down()

    def close_when_flushed(self) -> None:
        """Close once all kept bytes are sent, and call the owner's `on_lost`."""
        self._closing = True
        if not self._unsent:
            self._lose()

    def close(self) -> None:
        """Close the connection, and drop the kept bytes; may be called again."""
        if not (self.is_closed or self._half_closing) and self._tls is None:
            with contextlib.suppress(OSError):  # a child that predict forked may have it, too
                self.socket.shutdown(socket.SHUT_RDWR)
        self.let_go()

    def let_go(self) -> None:
        """Close the descriptor; without TLS, another process that has it keeps the connection."""
        if not self.is_closed:
            self.is_closed = True
            self._owner = _NO_OWNER
            self._unsent.clear()
            self.unsent = 0
            self._reactor.forget(self.socket.fileno())
            self.socket.close()

    def reset(self) -> None:
        """Close with a reset, as an ordinary close would look like the end of the response."""
        if not self.is_closed:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.let_go()

    def _watch(self, events: int) -> None:
        if events != self._events and not self.is_closed:
            self._events = events
            self._reactor.change(self.socket.fileno(), events)

    def _on_events(self, events: int) -> None:
        if events != READ and not self._is_to_be_read(events):
            return
        try:
            chunk = self.socket.recv(self._read_size)
        except (BlockingIOError, InterruptedError):
            if self._tls is not None and self._tls.wants_write:  # for the handshake, as a rule
                self._watch(self._events | WRITE)
        except Garbled as error:
            self._owner.on_garbled(str(error))
        except OSError:
            self._lose()
        else:
            if chunk:
                self._read_size = READ_SIZE if len(chunk) < READ_SIZE else LARGE_READ_SIZE
                self._owner.on_received(chunk)
            if not chunk or (self._tls is not None and self._tls.has_ended):
                self._owner.on_end()

    def _is_to_be_read(self, events: int) -> bool:
        was_paused = self.is_paused  # if it is _flush that pauses, there may be data
        if events & WRITE:
            self._flush()
        if self.is_closed or not events & ~WRITE:
            return False
        if was_paused and self.is_paused:  # only hang-ups and errors are reported then
            self._lose()
        return not self.is_paused

    def _lose(self) -> None:
        if not self.is_closed:
            owner = self._owner
            self.close()
            owner.on_lost()

    def _keep(self, part: memoryview) -> None:
        self._unsent.append(part)
        self.unsent += len(part)
        self.kept += len(part)
        self._watch(self._events | WRITE)

    def _flush(self) -> None:
        """Send kept bytes until the kernel takes no more; then do what waited for that."""
        try:
            if self._tls is not None and not self._unsent:
                self._tls.send(b"")  # sends the messages of TLS itself
            while self._unsent:
                self._send_first()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lose()
            return
        self._watch(self._events & ~WRITE)
        if self._closing:
            self._lose()
            return
        if self._half_closing:
            self._shut_down()
        self._owner.on_flushed()

    def _send_first(self) -> None:
        part = self._unsent[0]
        sent = self.socket.send(part)
        self.unsent -= sent
        if sent == len(part):
            self._unsent.popleft()
        else:
            self._unsent[0] = part[sent:]

    def _shut_down(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:  # close_notify of TLS has to wait
            self._watch(self._events | WRITE)
        except OSError:
            self._lose()


class Outflow:
    """Judges whether the client reads fast enough while bytes wait for it."""

    __slots__ = ("_is_owed", "_pace", "_stream")

    def __init__(self, stream: Stream, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace
        self._is_owed = False

    def is_too_slow(self, now: float) -> bool:
        """Return whether the client is too slow; to be called several times a second."""
        unsent = self._stream.count_unsent()
        was_owed, self._is_owed = self._is_owed, unsent > 0
        moved = self._stream.kept - unsent
        if self._is_owed and not was_owed:
            self._pace.start(now, moved)
        return was_owed and self._is_owed and self._pace.is_too_slow(now, moved)
