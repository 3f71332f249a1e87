"""The states of a connection, and the timeout in each."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """What a connection is waiting for."""

    IDLE = "idle"
    """A request; closed when its keep-alive time is over."""
    HEADER = "header"
    """The rest of a header; 408 when it takes too long."""
    BODY = "body"
    """The rest of a body; 408 when the client pauses too long, or is too slow."""
    WAITING = "waiting"
    """An executor, for a whole request; the queue keeps its time."""
    RESPONDING = "responding"
    """A cycle, which has the request; 504 when predict takes too long."""
    LINGERING = "lingering"
    """The client's end: our half is closed (RFC 9112 9.6); closed two seconds later at most."""


# For the hot path: a look-up in the class takes ten times as long.
IDLE, HEADER, BODY, WAITING, RESPONDING, LINGERING = State
