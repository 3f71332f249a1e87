"""Whether a client is still there, as far as its socket can tell."""

from __future__ import annotations

import enum
import socket


class Presence(enum.Enum):
    """What is known of a client that is not read."""

    FULL = enum.auto()
    HALF = enum.auto()
    """It has closed its half: it waits for an answer (RFC 9112 9.6), or has left."""
    NONE = enum.auto()


def presence_of(client: socket.socket) -> Presence:
    """Look at a socket that does not block, and take nothing from it."""
    try:
        return Presence.FULL if client.recv(1, socket.MSG_PEEK) else Presence.HALF
    except BlockingIOError:
        return Presence.FULL
    except OSError:
        return Presence.NONE


def may_be_told_to_continue(request: bytes) -> bool:
    """Whether a client knows interim responses, which HTTP/1.0 has none of (RFC 9110 15.2).

    `request` is the beginning of a whole one, or empty for none: then nothing waits for a response.
    """
    return request.partition(b"\r\n")[0].endswith(b"HTTP/1.1")
