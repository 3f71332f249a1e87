"""A client's connection, with those parts of its history that tell who broke it."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from contextlib import suppress

from turmoil.answers import Answer, Head, read_body, read_head

CONNECT_SECONDS = 30.0
# A slot whose workers were killed repeatedly stays empty for up to 36 s (docs/control.md), and a
# client must wait for longer than that.
ANSWER_SECONDS = 90.0


class Link:
    """A connection to a port of this machine; its attribute `port` is the client's own port."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.opened = time.monotonic()
        self._socket = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
        self._socket.settimeout(ANSWER_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._tls = tls
        self._stream = self._socket.makefile("rb")
        self.port: int = self._socket.getsockname()[1]
        self.heard: float | None = None
        """When the last response was complete, None before the first."""
        self.is_answering = False
        """Whether a response has begun to arrive and is not complete."""
        self.rested = 0.0
        """For how many seconds in all the client has paused while sending."""

    def secure(self) -> None:
        """Perform the TLS handshake, if the connection needs one and has not done it."""
        if self._tls:
            self._stream.close()
            self._socket = self._tls.wrap_socket(self._socket, server_hostname="localhost")
            self._stream = self._socket.makefile("rb")
            self._tls = None

    @property
    def is_over(self) -> bool:
        """Whether the server has closed it: between two requests it can have sent nothing else."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def send(self, piece: bytes) -> None:
        """Send all of it."""
        self._socket.sendall(piece)

    def rest(self, seconds: float) -> None:
        """Pause before sending more."""
        began = time.monotonic()
        time.sleep(seconds)
        self.rested += time.monotonic() - began

    def hear_head(self) -> Head:
        """Wait for the head of a response."""
        return read_head(self._stream)

    def hear(self, *, has_body: bool = True) -> Answer:
        """Wait for a complete response."""
        head = self.hear_head()
        self.is_answering = True
        answer = read_body(self._stream, head) if has_body else Answer(*head, b"")
        self.is_answering = False
        self.heard = time.monotonic()
        return answer

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self._stream.close()
        self._socket.close()

    def reset(self) -> None:
        """Reset the connection: send a RST instead of a FIN (socket(7), SO_LINGER)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
