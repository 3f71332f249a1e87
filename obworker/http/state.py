"""The states of a connection, with the timeout of each."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """What a connection is waiting for."""

    IDLE = "idle"
    """A request; the connection is closed after its keep-alive time."""
    HEADER = "header"
    """The rest of a header; answered with 408 if that takes too long."""
    BODY = "body"
    """The rest of a body; answered with 408 if the client pauses too long or is too slow."""
    WAITING = "waiting"
    """An executor for a whole request; the queue keeps the timeout."""
    RESPONDING = "responding"
    """The cycle that answers the request; 504 if predict takes too long."""
    LINGERING = "lingering"
    """The client's close after ours (RFC 9112 9.6); at most two seconds after the last byte."""


# For the hot path: looking up a member in the class takes ten times as long.
IDLE, HEADER, BODY, WAITING, RESPONDING, LINGERING = State
