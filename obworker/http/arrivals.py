"""Connections that come from other workers, and whether their clients are still there.

A client that has closed its half may be waiting for the answer, or may have left (RFC 9112 9.6). To
find out, it is sent an interim response: the system of a client that has left answers that with a
reset. Until there has been time for the reset to arrive, the client is *doubted*.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
from typing import TYPE_CHECKING

from obworker.http.connection import Connection
from obworker.http.response import CONTINUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from obworker.http.exchange import Parcel
    from obworker.http.service import Service

DOUBT_TIME = 0.05


class Presence(enum.Enum):
    """What is known of a client that is not read."""

    FULL = enum.auto()
    HALF = enum.auto()
    """It has closed its half."""
    NONE = enum.auto()


def presence_of(client: socket.socket) -> Presence:
    """Look at a socket that does not block, and take nothing from it."""
    try:
        if client.recv(1, socket.MSG_PEEK):
            return Presence.FULL
    except BlockingIOError:
        return Presence.FULL
    except OSError:
        return Presence.NONE
    return Presence.NONE if _is_reset(client) else Presence.HALF


def _is_reset(client: socket.socket) -> bool:
    """Whether a reset has come, which recv(2) does not tell after the end of what was sent."""
    poll = select.poll()
    poll.register(client, 0)
    return bool(poll.poll(0))  # POLLHUP and POLLERR are always told (poll(2))


def knows_interim_responses(request: bytes) -> bool:
    """Whether a whole request is of HTTP/1.1: before it there were none (RFC 9110 15.2)."""
    return request.partition(b"\r\n")[0].endswith(b"HTTP/1.1")


class Arrivals:
    """Takes in the parcels of other workers; `on_settled` is called when one is doubted no more."""

    def __init__(self, service: Service, on_settled: Callable[[], None]) -> None:
        self._service = service
        self._on_settled = on_settled
        self._doubted: set[Parcel] = set()

    @property
    def are_settled(self) -> bool:
        """Whether no client is doubted."""
        return not self._doubted

    def take_in(self, parcel: Parcel) -> None:
        """Go on with a connection that was another worker's.

        It is doubted once only: it may move again after each time, behind all who came later.
        """
        presence = presence_of(parcel.client)
        is_doubtful = presence is Presence.HALF and not parcel.attempt
        if is_doubtful and knows_interim_responses(parcel.head):
            with contextlib.suppress(OSError):
                parcel.client.send(CONTINUE)
            self._doubted.add(parcel)
            self._service.queue.hold(len(self._doubted))
            self._service.reactor.call_later(DOUBT_TIME, self._look_again, parcel)
        else:
            self._attach(parcel, presence)

    def _look_again(self, parcel: Parcel) -> None:
        self._doubted.discard(parcel)
        self._attach(parcel, presence_of(parcel.client))
        self._on_settled()

    def _attach(self, parcel: Parcel, presence: Presence) -> None:
        self._service.queue.vacate(parcel, len(self._doubted))
        if presence is Presence.NONE:
            parcel.client.close()
        else:
            Connection(self._service, parcel.client).bring(parcel)
