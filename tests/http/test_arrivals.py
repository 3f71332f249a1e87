from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from harness import eventually

from obworker.http.arrivals import Presence, knows_interim_responses, presence_of

Connected = tuple[socket.socket, socket.socket]


@pytest.fixture
def connected() -> Iterator[Connected]:
    """Return a client, and the server's socket for it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as served,
    ):
        served.setblocking(False)
        yield client, served


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize(
    ("act", "presence"),
    [
        (lambda client: client.sendall(b"a"), Presence.FULL),
        (lambda client: client.shutdown(socket.SHUT_WR), Presence.HALF),
        (socket.socket.close, Presence.HALF),
        (reset, Presence.NONE),
    ],
    ids=["sends", "has sent all", "closes", "resets"],
)
def test_of_a_client_that(
    connected: Connected, act: Callable[[socket.socket], None], presence: Presence
) -> None:
    client, served = connected
    assert presence_of(served) is Presence.FULL
    act(client)
    eventually(lambda: presence_of(served) is presence)


def test_to_look_takes_nothing(connected: Connected) -> None:
    client, served = connected
    client.sendall(b"ab")
    client.shutdown(socket.SHUT_WR)
    eventually(lambda: len(served.recv(3, socket.MSG_PEEK)) == 2)
    assert [presence_of(served) for _ in range(2)] == [Presence.FULL] * 2
    assert served.recv(3) == b"ab"
    assert presence_of(served) is Presence.HALF


@pytest.mark.parametrize(
    ("request_", "may"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nHost: HTTP/1.1\r\n\r\n", False),
        (b"", False),
    ],
)
def test_http_1_0_knows_no_interim_response(request_: bytes, *, may: bool) -> None:
    assert knows_interim_responses(request_) is may


def test_of_a_client_that_closed_and_answers_with_a_reset_what_it_is_sent(
    connected: Connected,
) -> None:
    client, served = connected
    client.close()
    eventually(lambda: presence_of(served) is Presence.HALF)
    served.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    eventually(lambda: presence_of(served) is Presence.NONE)
    assert presence_of(served) is Presence.NONE
