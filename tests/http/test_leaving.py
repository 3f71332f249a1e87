"""Clients that leave, in each way and in each state of their connection: nothing stays behind."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import eventually
from wire import TIMEOUT, Client, Running, StartServer, echo

from obworker.http.state import State

LARGE = bytes(1 << 20)


class Application:
    """Holds some requests until it is told to go on, and answers some with more than fits."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.held = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/held":
            self.held.set()
            assert self.go.wait(TIMEOUT)
        if path == "/large":
            start_response("200 OK", [])
            return [LARGE * 16]
        if path == "/stream":
            start_response("200 OK", [])
            return self._parts()
        return echo(environ, start_response)

    def _parts(self) -> Iterator[bytes]:
        for _ in range(100):
            self.held.set()
            yield LARGE


Way = Callable[[Client], None]


def half_close(client: Client) -> None:
    client.half_close()


def close(client: Client) -> None:
    client.close()


def reset(client: Client) -> None:
    client.reset()


# What is sent, and in which state the connection is then.
STATES: dict[str, tuple[bytes, State]] = {
    "new": (b"", State.IDLE),
    "used": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", State.IDLE),
    "an empty line": (b"\r\n", State.IDLE),
    "in the header": (b"GET / HTTP/1.1\r\nHo", State.HEADER),
    "in the body": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf", State.BODY),
    "asks for leave": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        State.BODY,
    ),
    "in predict": (b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n", State.RESPONDING),
    "pipelined": (b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n" * 3, State.RESPONDING),
    "in an answer": (b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", State.RESPONDING),
    "in a stream": (b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n", State.RESPONDING),
    "refused": (b"nonsense\r\n\r\n", State.LINGERING),
    "told to close": (b"GET / HTTP/1.0\r\n\r\n", State.LINGERING),
    "closed and large": (b"GET /large HTTP/1.0\r\n\r\n", State.LINGERING),
}


def is_quiet(server: Running) -> bool:
    """Whether the server hardly runs for longer than one of its ticks."""
    before, passed = time.process_time(), []
    server.call(lambda: server.server.reactor.call_later(0.3, lambda: passed.append(1)))
    eventually(lambda: passed)
    return time.process_time() - before < 0.15


@pytest.mark.parametrize("leave", [half_close, close, reset])
@pytest.mark.parametrize("state", STATES)
def test_a_client_that_leaves(start: StartServer, state: str, leave: Way) -> None:
    app = Application()
    server = start(app)
    client = server.connect(receive_buffer=4096)
    sent, expected = STATES[state]
    (connection,) = eventually(lambda: list(server.server._service.connections))
    client.send(sent)
    eventually(lambda: connection.state is expected, what=f"{expected}")
    leave(client)
    assert is_quiet(server)
    app.go.set()
    if leave is half_close:
        client.read_to_end()
    eventually(lambda: not server.active, TIMEOUT, "the end of the connection")
    other = server.connect()
    other.get()
    assert other.read_reply().status == 200


@pytest.mark.parametrize("leave", [half_close, close, reset])
@pytest.mark.parametrize("pipelined", [1, 3])
def test_a_client_that_leaves_while_it_waits(
    start: StartServer, leave: Way, pipelined: int
) -> None:
    app = Application()
    server = start(app, max_queue=1)
    busy = server.connect()
    busy.get("/held")
    assert app.held.wait(TIMEOUT)
    client = server.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * pipelined)
    eventually(lambda: server.server.queue._waiting)
    leave(client)
    assert is_quiet(server)
    app.go.set()
    assert busy.read_reply().status == 200
    if leave is half_close:
        assert client.read_to_end().count(b"HTTP/1.1 200 OK") == pipelined
    eventually(lambda: server.active == 1, TIMEOUT, "the end of the connection")
    assert server.server.queue._places._free == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("state", ["new", "in the body", "in predict", "in an answer"])
@pytest.mark.parametrize("leave", [half_close, close])
def test_a_client_of_a_unix_socket_that_leaves(
    start: StartServer, tmp_path: Path, state: str, leave: Way
) -> None:
    app = Application()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    server = start(app, listener)
    client = server.connect()
    sent, expected = STATES[state]
    (connection,) = eventually(lambda: list(server.server._service.connections))
    client.send(sent)
    eventually(lambda: connection.state is expected)
    leave(client)
    assert is_quiet(server)
    app.go.set()
    if leave is half_close:
        client.read_to_end()
    eventually(lambda: not server.active, TIMEOUT, "the end of the connection")
