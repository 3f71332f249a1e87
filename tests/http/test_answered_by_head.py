"""What does not reach predict is answered when its head is there, however the network cuts it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from harness import eventually
from wire import AT_ONCE, KEY, Blocking, Client, Running, StartServer, echo

from obworker.http.connection import Connection
from obworker.http.parser import MOST_DROPPED
from obworker.http.state import State

MIB = 1 << 20
BEARER = f"Authorization: Bearer {KEY}"
ANSWER = "POST /at-once "


class Answered(NamedTuple):
    """What is answered to some bytes, and whether the last answer says that it is the last."""

    name: str
    raw: bytes
    answers: tuple[str, ...]
    closes: bool = False


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def post(body: bytes, *fields: str, target: str = AT_ONCE, version: str = "1.1") -> bytes:
    lines = [f"POST {target} HTTP/{version}", "Host: a", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


FIRST, NEXT = get("/first"), get("/next")
CHUNKED = "Transfer-Encoding: chunked"
EXPECT = "Expect: 100-continue"
ENTRIES = [
    Answered("a body", post(b"abc", "Content-Length: 3") + NEXT, (ANSWER, "GET /next ")),
    Answered("no body", post(b"") + NEXT, (ANSWER, "GET /next ")),
    Answered("two of them", post(b"abc", "Content-Length: 3") * 2, (ANSWER, ANSWER)),
    Answered("among others", FIRST + post(b"abc", "Content-Length: 3") + NEXT,
             ("GET /first ", ANSWER, "GET /next ")),
    Answered("a body that is a request", post(NEXT, f"Content-Length: {len(NEXT)}") + NEXT,
             (ANSWER, "GET /next ")),
    Answered("an empty line after it", post(b"abc", "Content-Length: 3") + b"\r\n" + NEXT,
             (ANSWER, "GET /next ")),
    Answered("chunks", post(b"3\r\nabc\r\n0\r\n\r\n", CHUNKED) + NEXT, (ANSWER,), True),
    Answered("chunks after another", FIRST + post(b"3\r\nabc\r\n0\r\n\r\n", CHUNKED) + NEXT,
             ("GET /first ", ANSWER), True),
    Answered("chunks that are none", post(b"nonsense\r\n", CHUNKED), (ANSWER,), True),
    Answered("Expect", post(b"abc", EXPECT, "Content-Length: 3") + NEXT, (ANSWER,), True),
    Answered("Expect and chunks", post(b"0\r\n\r\n", EXPECT, CHUNKED) + NEXT, (ANSWER,), True),
    Answered("Expect without a body", post(b"", EXPECT) + NEXT, (ANSWER, "GET /next ")),
    Answered("close", post(b"abc", "Content-Length: 3", "Connection: close") + NEXT,
             (ANSWER,), True),
    Answered("1.0", post(b"abc", "Content-Length: 3", version="1.0") + NEXT, (ANSWER,), True),
    Answered("more than is dropped", post(b"abc", f"Content-Length: {MOST_DROPPED + 1}"),
             (ANSWER,), True),
    Answered("more than is served", post(b"abc", f"Content-Length: {1000 * MIB}"),
             (ANSWER,), True),
]  # fmt: skip


def singly(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def every_cut(raw: bytes) -> Iterator[list[bytes]]:
    """Yield the whole, its bytes, and two parts for each boundary."""
    yield [raw]
    yield singly(raw)
    for at in range(1, len(raw)):
        yield [raw[:at], raw[at:]]


def only(server: Running) -> Connection:
    """Return the server's side of the only connection."""
    (connection,) = eventually(lambda: list(server.server._service.connections))
    return connection


def send_in(server: Running, pieces: Iterable[bytes]) -> Client:
    """Have a connection receive bytes cut like this: TCP would join them as it likes."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def receive() -> None:
        connection = Connection(server.server._service, ours)
        for piece in pieces:
            connection.on_received(piece)

    server.call(receive)
    return Client(theirs)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_answers_are_the_same_however_it_is_cut(start: StartServer, entry: Answered) -> None:
    server = start(echo)
    for pieces in every_cut(entry.raw):
        client = send_in(server, pieces)
        replies = [client.read_reply() for _ in entry.answers]
        assert [reply.body.decode() for reply in replies] == list(entry.answers), pieces
        assert (replies[-1].headers.get("connection") == "close") == entry.closes, pieces
        client.half_close()
        assert client.at_end, pieces
        client.close()


def is_refused(client: Client) -> str | None:
    """Whether a 401 comes, and nothing before it; return what it says of the connection."""
    reply = client.read_reply()
    assert (reply.status, list(json.loads(reply.body))) == (401, ["error"])
    return reply.headers.get("connection")


class TestWithoutAKey:
    """To collect bodies for anybody would be to lend out memory and time."""

    @pytest.mark.parametrize(
        "fields",
        [
            [f"Content-Length: {90 * MIB}"],
            [f"Content-Length: {90 * MIB}", EXPECT],
            ["Content-Length: 3", EXPECT],
            [CHUNKED],
        ],
        ids=lambda fields: " ".join(fields),
    )
    def test_a_body_is_not_waited_for(
        self, start: StartServer, keys: str, fields: list[str]
    ) -> None:
        """RFC 9110 10.1.1: nor is it asked for; RFC 9112 9.6: the connection ends."""
        client = start(echo, api_key_file=keys).connect()
        client.send(post(b"", *fields, target="/"))
        assert is_refused(client) == "close"
        assert client.at_end

    def test_a_small_one_is_dropped_and_the_connection_goes_on(
        self, start: StartServer, keys: str
    ) -> None:
        client = start(echo, api_key_file=keys).connect()
        client.send(post(b"", f"Content-Length: {MOST_DROPPED}", target="/"))
        assert is_refused(client) is None
        client.send(bytes(MOST_DROPPED))
        client.post("/", b"hello", BEARER)
        assert client.read_reply().body == b"POST / hello"

    def test_one_that_is_being_sent_does_not_cost_the_answer(
        self, start: StartServer, keys: str
    ) -> None:
        """To close with bytes unread would reset the connection, and the answer with it."""
        client = start(echo, api_key_file=keys).connect()
        client.post("/", bytes(8 * MIB))
        assert is_refused(client) == "close"

    def test_the_answers_before_it_come_first(self, start: StartServer, keys: str) -> None:
        app = Blocking()
        client = start(app, api_key_file=keys).connect()
        client.post("/first", b"", BEARER)
        client.send(post(b"", CHUNKED, target="/"))
        app.wait_until_begun()
        app.release.set()
        assert client.read_reply().body == b"POST /first "
        assert is_refused(client) == "close"
        assert client.at_end

    def test_a_preflight_with_a_body_is_none_to_collect(
        self, start: StartServer, keys: str
    ) -> None:
        client = start(echo, api_key_file=keys, cors_origin="*").connect()
        client.send(
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: b\r\nAccess-Control-Request-Method: POST\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        status, headers = client.read_head()
        assert (status, headers["connection"]) == (204, "close")

    def test_with_one_the_body_is_asked_for(self, start: StartServer, keys: str) -> None:
        client = start(echo, api_key_file=keys).connect()
        client.send(post(b"", "Content-Length: 3", EXPECT, BEARER, target="/"))
        assert client.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        assert client.read_reply().body == b"POST / abc"


class TestABodyThatIsDropped:
    """Its request is answered: no second answer may follow."""

    def ask(self, start: StartServer, **settings: float) -> tuple[Running, Client]:
        server = start(echo, **settings)
        client = server.connect()
        client.send(post(b"a", "Content-Length: 3"))
        assert client.read_reply().status == 200
        return server, client

    def test_has_the_time_of_an_idle_connection(self, start: StartServer) -> None:
        server, client = self.ask(start, body_timeout=0.1, keep_alive=0.5)
        eventually(lambda: only(server).state is State.IDLE)
        assert client.at_end  # without a 408

    def test_keeps_no_worker_from_leaving(self, start: StartServer) -> None:
        server, client = self.ask(start)
        server.drain()
        assert client.at_end
        assert server.drained.wait(5)

    def test_is_not_moved_to_a_worker_that_would_take_it_for_a_request(
        self, start: StartServer
    ) -> None:
        server, client = self.ask(start)
        assert not only(server)._is_movable
        client.send(b"bc")
        eventually(lambda: only(server)._is_movable)
