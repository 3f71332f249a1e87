"""A client's connection, and what of its past decides who is to blame when it breaks."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from contextlib import suppress

from turmoil.answers import Answer, Head, read_body, read_head

CONNECT_SECONDS = 30.0
# Longer than slots of workers that were killed again and again stay empty (docs/control.md): 36 s.
ANSWER_SECONDS = 90.0


class Link:
    """A connection to a port of this machine; `port` is the client's own."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.opened = time.monotonic()
        self._socket = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
        self._socket.settimeout(ANSWER_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._tls = tls
        self._stream = self._socket.makefile("rb")
        self.port: int = self._socket.getsockname()[1]
        self.heard: float | None = None
        """When the last answer had come, None while there is none."""
        self.is_answering = False
        """Whether the head of an answer has come, and not the rest."""
        self.rested = 0.0
        """How many seconds the client took its time to send."""

    def secure(self) -> None:
        """Shake hands, if it is to be encrypted and is not yet."""
        if self._tls:
            self._stream.close()
            self._socket = self._tls.wrap_socket(self._socket, server_hostname="localhost")
            self._stream = self._socket.makefile("rb")
            self._tls = None

    @property
    def is_over(self) -> bool:
        """Whether the other side has closed it; it has nothing else to say between requests."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def send(self, piece: bytes) -> None:
        """Send it all."""
        self._socket.sendall(piece)

    def rest(self, seconds: float) -> None:
        """Take some time before more is sent."""
        began = time.monotonic()
        time.sleep(seconds)
        self.rested += time.monotonic() - began

    def hear_head(self) -> Head:
        """Wait for the head of an answer."""
        return read_head(self._stream)

    def hear(self, *, has_body: bool = True) -> Answer:
        """Wait for an answer."""
        head = self.hear_head()
        self.is_answering = True
        answer = read_body(self._stream, head) if has_body else Answer(*head, b"")
        self.is_answering = False
        self.heard = time.monotonic()
        return answer

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            self._stream.close()
        self._socket.close()

    def reset(self) -> None:
        """End it without a word: a RST instead of a FIN (socket(7), SO_LINGER)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
