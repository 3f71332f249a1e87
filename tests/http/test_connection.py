"""What a client sees of a real server on a socket: persistence, timeouts, flow, deadlines."""

from __future__ import annotations

import gc
import json
import math
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import pytest
from harness import eventually
from wire import AT_ONCE, TIMEOUT, Blocking, Client, Running, StartServer, echo

from obworker.http import connection as connections
from obworker.http.connection import Connection
from obworker.http.parser import Request
from obworker.http.state import State

MIB = 1 << 20


class Streaming:
    """An application that sends what the test gives it, part by part."""

    def __init__(self, part: bytes = b"x") -> None:
        self.part = part
        self.produced = 0
        self.go_on = threading.Semaphore(0)
        self.closed = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        return self._parts()

    def _parts(self) -> Iterator[bytes]:
        try:
            while True:
                assert self.go_on.acquire(timeout=TIMEOUT)
                self.produced += 1
                yield self.part
        finally:
            self.closed.set()


def large(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with more than all buffers on the way hold."""
    start_response("200 OK", [])
    return [b"x" * (16 * MIB)]


def only(server: Running) -> Connection:
    """Return the server's side of the only connection."""
    (connection,) = eventually(lambda: list(server.server._service.connections))
    return connection


def let_pass(server: Running, seconds: float) -> None:
    """Have the server look at its connections as it would so many seconds from now."""
    later = time.monotonic() + seconds

    def check() -> None:
        for connection in list(server.server._service.connections):
            connection.check(later)

    server.call(check)


def is_quiet(client: Client, seconds: float = 0.6) -> bool:
    """Whether the server neither sends nor closes for longer than two of its ticks."""
    client.socket.settimeout(seconds)
    try:
        return client.socket.recv(1, socket.MSG_PEEK) == b"impossible"
    except TimeoutError:
        return True
    finally:
        client.socket.settimeout(TIMEOUT)


class TestPersistence:
    def test_requests_follow_one_another(self, start: StartServer) -> None:
        client = start(echo).connect()
        for path in ("/1", "/2", "/3"):
            client.get(path)
            reply = client.read_reply()
            assert (reply.status, reply.body) == (200, f"GET {path} ".encode())
            assert "connection" not in reply.headers

    def test_close_is_said_and_done(self, start: StartServer) -> None:
        client = start(echo).connect()
        client.get("/", "Connection: close")
        assert client.read_reply().headers["connection"] == "close"
        assert client.at_end

    def test_http_1_0_closes(self, start: StartServer) -> None:
        client = start(echo).connect()
        client.get("/", version="1.0")
        assert client.read_reply().headers["connection"] == "close"
        assert client.at_end

    def test_http_1_0_stays_where_it_asks_to(self, start: StartServer) -> None:
        client = start(echo).connect()
        for _ in range(2):
            client.get("/", "Connection: keep-alive", version="1.0")
            assert client.read_reply().headers["connection"] == "keep-alive"

    def test_http_1_0_is_told_so_by_an_error_as_well(self, start: StartServer) -> None:
        """It was not, and waited for the end of the connection, which was kept."""
        app = Blocking()
        server = start(app, max_queue=0)
        first, client = server.connect(), server.connect()
        first.get()
        app.wait_until_begun()
        for _ in range(2):
            client.get("/", "Connection: keep-alive", version="1.0")
            reply = client.read_reply()
            assert (reply.status, reply.headers["connection"]) == (503, "keep-alive")
        app.release.set()

    def test_none_with_a_keep_alive_of_zero(self, start: StartServer) -> None:
        client = start(echo, keep_alive=0.0).connect()
        client.get()
        assert client.read_reply().headers["connection"] == "close"
        assert client.at_end

    def test_a_new_connection_has_time_to_send_even_then(self, start: StartServer) -> None:
        """It was closed at the next tick."""
        client = start(echo, keep_alive=0.0).connect()
        assert is_quiet(client)
        client.get()
        assert client.read_reply().status == 200

    def test_pipelined_requests_are_answered_in_order(self, start: StartServer) -> None:
        client = start(echo, threads=4).connect()
        paths = [f"/{i}" for i in range(20)]
        client.send(*(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths))
        for path in paths:
            assert client.read_reply().body == f"GET {path} ".encode()

    def test_a_pipelined_request_waits_while_one_is_at_work(self, start: StartServer) -> None:
        app = Blocking()
        client = start(app, threads=4).connect()
        client.get("/1")
        app.wait_until_begun()
        client.get("/2")
        assert is_quiet(client)
        assert app.calls == 1
        app.release.set()
        assert [client.read_reply().body for _ in range(2)] == [b"GET /1 ", b"GET /2 "]

    def test_the_answer_to_a_bad_one_comes_after_those_before_it(self, start: StartServer) -> None:
        client = start(echo).connect()
        client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" * 2, b"nonsense\r\n\r\n")
        assert [client.read_reply().status for _ in range(3)] == [200, 200, 400]
        assert client.at_end

    def test_the_last_answer_is_the_end_whatever_comes_while_it_is_made(
        self, start: StartServer
    ) -> None:
        """The loop meant to go on to the last request, which had been answered by then: the
        connection, half closed, counted as idle, and was kept for as long."""
        blocking = Blocking()

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            at_once = environ["PATH_INFO"] == AT_ONCE
            return (echo if at_once else blocking)(environ, start_response)

        server = start(app)
        busy, client = server.connect(), server.connect()
        busy.get()
        blocking.wait_until_begun()
        last = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % AT_ONCE.encode()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", last)
        eventually(lambda: server.pending == 2)
        connection = cast("Connection", server.server.queue._waiting[0])

        def refuse_the_first_while_more_comes() -> None:
            client.send(b"x")
            server.server.queue.check(math.inf)

        server.call(refuse_the_first_while_more_comes)
        assert [client.read_reply().status for _ in range(2)] == [503, 200]
        assert client.at_end
        server.call(lambda: None)  # what was posted before is done
        assert connection.state is State.LINGERING
        blocking.release.set()
        assert busy.read_reply().status == 200

    def test_what_follows_close_is_not_answered(self, start: StartServer) -> None:
        client = start(echo).connect()
        client.get("/", "Connection: close")
        client.send(b"\0nonsense")
        assert client.read_reply().status == 200
        assert client.at_end

    def test_an_upgrade_is_not_made(self, start: StartServer) -> None:
        client = start(echo).connect()
        client.post("/", b"abc", "Connection: upgrade", "Upgrade: h2c")
        client.get("/2")
        assert client.read_reply().body == b"POST / abc"
        assert client.read_reply().body == b"GET /2 "


class TestHalfClose:
    """A client that has shut its own half down reads on."""

    def test_the_answer_comes(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app)
        client = server.connect()
        client.get()
        client.half_close()
        eventually(lambda: only(server)._half_closed)
        app.release.set()
        reply = client.read_reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert client.at_end

    def test_all_pipelined_answers_come(self, start: StartServer) -> None:
        """Only the first did: it said close, because no other request could follow."""
        app = Blocking()
        server = start(app)
        client = server.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        client.half_close()
        app.wait_until_begun()
        app.release.set()
        replies = [client.read_reply() for _ in range(3)]
        assert [reply.status for reply in replies] == [200] * 3
        assert client.at_end

    def test_one_that_comes_while_an_answer_is_framed_is_not_the_end(
        self, start: StartServer
    ) -> None:
        """The answer said close, and the request that had come meanwhile was dropped."""
        server = start(echo)
        server.connect()
        connection = only(server)

        class Arriving(deque[Request]):
            def __bool__(self) -> bool:
                seen = len(self) > 0
                if not seen:  # what another thread does after this one has looked
                    self.append(cast("Request", None))
                    connection._half_closed = True
                return seen

        def look() -> None:
            connection._inbox.requests = Arriving()
            may_persist.append(connection.may_persist)
            connection._inbox.requests = deque()
            connection._half_closed = False

        may_persist: list[bool] = []
        server.call(look)
        assert may_persist == [True]

    @pytest.mark.parametrize(
        "sent", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na"]
    )
    def test_without_a_whole_request_it_is_the_end(self, start: StartServer, sent: bytes) -> None:
        client = start(echo).connect()
        client.send(sent)
        client.half_close()
        assert client.at_end


class TestBodies:
    def test_chunked_upload(self, start: StartServer) -> None:
        client = start(echo).connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"3\r\nabc\r\n")
        client.send(b"2;x=y\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert client.read_reply().body == b"POST / abcde"

    def test_a_large_upload_on_a_kept_connection(self, start: StartServer) -> None:
        client = start(echo).connect()
        for _ in range(2):
            client.post("/", b"x" * (2 * MIB))
            assert len(client.read_reply().body) == 2 * MIB + len("POST / ")

    def test_head_has_the_length_and_no_body(self, start: StartServer) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Content-Length", "5")])
            return [b"hello"]

        client = start(app).connect()
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        for _ in range(2):
            assert client.read_reply("HEAD").headers["content-length"] == "5"

    def test_parts_arrive_as_they_are_produced(self, start: StartServer) -> None:
        app = Streaming(b"part")
        client = start(app).connect()
        client.get()
        app.go_on.release()
        _, headers = client.read_head()
        assert headers["transfer-encoding"] == "chunked"
        for _ in range(3):
            assert client.read_chunk() == b"part"
            app.go_on.release()
        client.close()
        app.go_on.release(10)
        assert app.closed.wait(TIMEOUT)

    def test_a_body_that_breaks_off_is_seen_to(self, start: StartServer) -> None:
        def breaking(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield b"part"
            raise ValueError("breaks")

        client = start(breaking).connect()
        client.get()
        client.read_head()
        assert client.read_chunk() == b"part"
        assert client.at_end  # and no last chunk

    def test_one_that_only_the_end_ends_is_reset(self, start: StartServer) -> None:
        """It looked whole: an abort sends the same FIN as a close."""

        def breaking(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield b"part"
            raise ValueError("breaks")

        client = start(breaking).connect()
        client.get(version="1.0")
        with pytest.raises(ConnectionResetError):
            client.read_to_end()


class TestContinue:
    """RFC 9110 10.1.1."""

    HEADER = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"

    def read_continue(self, client: Client) -> None:
        assert client.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"

    def test_leave_is_given_and_the_answer_follows(self, start: StartServer) -> None:
        client = start(echo).connect()
        for _ in range(2):
            client.send(self.HEADER)
            self.read_continue(client)
            client.send(b"abc")
            assert client.read_reply().body == b"POST / abc"

    def test_none_is_given_where_the_body_has_come(self, start: StartServer) -> None:
        client = start(echo).connect()
        client.send(self.HEADER + b"abc")
        assert client.read_reply().status == 200

    def test_none_is_given_to_a_body_that_is_refused(self, start: StartServer) -> None:
        client = start(echo, limit_request_body=2).connect()
        client.send(self.HEADER)
        assert client.read_reply().status == 413
        assert client.at_end

    def test_it_waits_for_the_answer_before_it(self, start: StartServer) -> None:
        app = Blocking()
        client = start(app).connect()
        client.get("/1")
        client.send(self.HEADER)
        app.wait_until_begun()
        assert is_quiet(client)
        app.release.set()
        assert client.read_reply().body == b"GET /1 "
        self.read_continue(client)
        client.send(b"abc")
        assert client.read_reply().body == b"POST / abc"

    def test_another_expectation_is_refused(self, start: StartServer) -> None:
        client = start(echo).connect()
        client.get("/", "Expect: more")
        assert client.read_reply().status == 417


class TestRefusals:
    @pytest.mark.parametrize(
        ("raw", "status"),
        [
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", 413),
            (
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n"
                + b"x" * 101,
                413,
            ),
            (b"GET /" + b"x" * 200, 414),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 500 + b"\r\n\r\n", 431),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ],
    )
    def test_are_json_and_close(self, start: StartServer, raw: bytes, status: int) -> None:
        server = start(
            echo, limit_request_line=100, limit_request_field_size=200, limit_request_body=100
        )
        client = server.connect()
        client.send(raw)
        reply = client.read_reply()
        assert reply.status == status
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["connection"] == "close"
        assert json.loads(reply.body)["error"]
        assert client.at_end

    def test_one_reaches_a_client_that_is_still_sending(self, start: StartServer) -> None:
        """To close with bytes unread would reset the connection, and the answer with it."""
        client = start(echo, limit_request_body=100).connect()
        client.post("/", b"x" * (8 * MIB))
        assert client.read_reply().status == 413

    def test_an_application_that_fails_is_answered(self, start: StartServer) -> None:
        def failing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            raise SystemExit(1)

        server = start(failing)
        for _ in range(2):
            client = server.connect()
            client.get()
            reply = client.read_reply()
            assert (reply.status, json.loads(reply.body)) == (
                500,
                {"error": "Internal Server Error"},
            )
            assert client.at_end


class TestTimeouts:
    """Short ones, by the clock; a tick is a quarter of a second."""

    def test_a_header_that_does_not_come(self, start: StartServer) -> None:
        client = start(echo, header_timeout=0.1).connect()
        client.send(b"GET / HTTP/1.1\r\n")
        assert client.read_reply().status == 408
        assert client.at_end

    def test_a_header_that_trickles_in(self, start: StartServer) -> None:
        server = start(echo, header_timeout=5.0)
        client = server.connect()
        client.send(b"GET / HTTP/1.1\r\n")
        eventually(lambda: only(server).state is State.HEADER)
        deadline = only(server).deadline
        client.send(b"X: y\r\n")
        client.send(b"Y: y\r\n")
        eventually(lambda: len(only(server)._inbox._parser._fields) == 2)
        assert only(server).deadline == deadline
        let_pass(server, 6.0)
        assert client.read_reply().status == 408

    def test_a_body_that_does_not_come(self, start: StartServer) -> None:
        client = start(echo, body_timeout=0.1).connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        assert client.read_reply().status == 408
        assert client.at_end

    def test_a_body_that_keeps_coming_has_all_the_time(self, start: StartServer) -> None:
        server = start(echo, body_timeout=5.0)
        client = server.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
        for size, part in enumerate((b"a", b"b", b"c"), 1):
            eventually(lambda: only(server).state is State.BODY)
            let_pass(server, 4.0)
            client.send(part)
            if size < 3:
                eventually(lambda size=size: only(server)._inbox._parser._missing == 3 - size)  # type: ignore[misc]
        assert client.read_reply().body == b"POST / abc"

    def test_an_idle_connection_is_closed_silently(self, start: StartServer) -> None:
        client = start(echo, keep_alive=0.1).connect()
        client.get()
        client.read_reply()
        assert client.at_end

    def test_an_idle_connection_is_kept_for_that_long(self, start: StartServer) -> None:
        server = start(echo, keep_alive=5.0)
        client = server.connect()
        client.get()
        client.read_reply()
        let_pass(server, 4.0)
        client.get()
        assert client.read_reply().status == 200

    def test_empty_lines_buy_no_time(self, start: StartServer) -> None:
        server = start(echo, keep_alive=5.0)
        client = server.connect()
        client.get()
        client.read_reply()
        eventually(lambda: only(server).state is State.IDLE)
        deadline = only(server).deadline
        client.send(b"\r\n")
        eventually(lambda: only(server)._inbox._parser._empty_lines)
        assert only(server).deadline == deadline

    def test_a_client_that_never_closes_is_left_in_the_end(self, start: StartServer) -> None:
        server = start(echo)
        client = server.connect()
        client.get("/", "Connection: close")
        client.read_reply()
        assert client.at_end
        assert only(server).state is State.LINGERING
        let_pass(server, connections.LINGER_TIMEOUT + 0.1)
        eventually(lambda: not server.active)


class TestSharedWithAProcess:
    """What predict has forked has a copy of each connection there was, and keeps it open."""

    @pytest.fixture
    def copies(self) -> Iterator[list[int]]:
        made: list[int] = []
        yield made
        for descriptor in made:
            os.close(descriptor)

    def connect(self, server: Running, copies: list[int]) -> Client:
        client = server.connect()
        copies.append(os.dup(only(server)._stream.socket.fileno()))
        return client

    def test_an_idle_connection_that_is_closed_is_closed_for_the_client(
        self, start: StartServer, copies: list[int]
    ) -> None:
        """It seemed open, and whatever was sent on it was never answered."""
        client = self.connect(start(echo, keep_alive=0.1), copies)
        client.get()
        assert client.read_reply().status == 200
        assert client.at_end

    def test_one_whose_client_has_closed_its_half_is_too(
        self, start: StartServer, copies: list[int]
    ) -> None:
        client = self.connect(start(echo), copies)
        client.get()
        client.half_close()
        assert client.read_to_end().endswith(b"GET / ")


class TestSlowReaders:
    def test_hold_the_generator_back_and_lose_nothing(self, start: StartServer) -> None:
        app = Streaming(b"x" * MIB)
        app.go_on.release(200)
        server = start(app)
        client = server.connect(receive_buffer=4096)
        client.get()
        eventually(lambda: only(server)._stream.is_clogged)
        assert app.produced < 30  # what kernel buffers take, and a part or two
        client.read_head()
        for _ in range(60):
            assert client.read_chunk() == app.part
        client.close()
        assert app.closed.wait(TIMEOUT)

    def test_that_read_nothing_are_cut_off(self, start: StartServer) -> None:
        app = Streaming(b"x" * MIB)
        app.go_on.release(200)
        server = start(app, body_timeout=0.1, timeout=5.0)
        server.connect(receive_buffer=4096).get()
        assert app.closed.wait(TIMEOUT)
        eventually(lambda: not server.active)
        assert not server.overdue

    def test_that_read_on_are_not(self, start: StartServer) -> None:
        """Not for the time a whole response takes, but for a pause, is a client cut off."""
        server = start(large, body_timeout=5.0)
        client = server.connect(receive_buffer=4096)
        client.get()
        client.read_head()
        eventually(lambda: only(server)._cycle is None)
        for _ in range(8):
            let_pass(server, 0.0)
            connection = only(server)
            unsent = connection._stream.count_unsent()
            client.read(MIB // 8)
            eventually(lambda: connection._stream.count_unsent() != unsent)  # noqa: B023
            let_pass(server, 60.0)
        assert len(client.read(15 * MIB)) == 15 * MIB

    @pytest.mark.parametrize("half_closes", [False, True])
    def test_get_all_of_a_response_that_closes(self, start: StartServer, half_closes: bool) -> None:
        """After two seconds the rest of it was thrown away."""
        server = start(large)
        client = server.connect(receive_buffer=4096)
        client.get("/", "Connection: close")
        if half_closes:
            client.half_close()
        client.read_head()
        eventually(lambda: only(server)._cycle is None)
        for _ in range(2):
            let_pass(server, connections.LINGER_TIMEOUT + 1)
        assert len(client.read_to_end()) == 16 * MIB

    def test_that_stop_reading_a_response_that_closes_are_cut_off(self, start: StartServer) -> None:
        server = start(large, body_timeout=0.1)
        client = server.connect(receive_buffer=4096)
        client.get("/", "Connection: close")
        client.read_head()
        eventually(lambda: not server.active)

    def test_whose_idle_time_is_over_get_the_rest(self, start: StartServer) -> None:
        server = start(large, keep_alive=5.0)
        client = server.connect(receive_buffer=4096)
        client.get()
        client.read_head()
        eventually(lambda: only(server)._cycle is None)
        for _ in range(2):
            let_pass(server, 6.0)
        assert len(client.read(16 * MIB)) == 16 * MIB

    def test_have_the_whole_keep_alive_time_after_the_last_byte(self, start: StartServer) -> None:
        """It counted from when the answer was made: who read for longer lost the connection."""
        size = 60_000  # so little unsent holds up no other request

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            return [bytes(size)]

        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # for all it accepts
        listener.bind(("127.0.0.1", 0))
        server = start(app, listener, keep_alive=2.0)
        client = server.connect(receive_buffer=4096)
        client.get()
        client.read_head()
        eventually(lambda: only(server)._cycle is None)
        later = time.monotonic() + 2.0
        eventually(lambda: time.monotonic() > later)
        assert len(client.read(size)) == size
        assert is_quiet(client)
        client.get()
        assert client.read_reply().status == 200

    def test_that_pipeline_do_not_fill_memory_with_answers(self, start: StartServer) -> None:
        """Every answer was made and kept at once."""
        calls = []

        def counting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            calls.append(1)
            start_response("200 OK", [])
            return [b"x" * MIB]

        server = start(counting)
        client = server.connect(receive_buffer=4096)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 60)
        eventually(lambda: only(server)._stream.is_clogged and only(server)._cycle is None)
        assert len(calls) < 30
        for _ in range(60):
            assert len(client.read_reply().body) == MIB
        assert len(calls) == 60

    def test_the_time_they_take_is_not_the_applications(self, start: StartServer) -> None:
        app = Streaming(b"x" * MIB)
        app.go_on.release(200)
        server = start(app, timeout=5.0, body_timeout=60.0)
        client = server.connect(receive_buffer=4096)
        client.get()
        eventually(lambda: only(server)._stream.is_clogged)
        cycle = only(server)._cycle
        assert cycle
        before = cycle.deadline
        let_pass(server, 20.0)
        assert not server.overdue
        assert cycle.deadline > before + 19.0  # others go by it, too
        client.read_head()
        while only(server)._stream.is_clogged:
            client.read_chunk()
        client.close()
        assert app.closed.wait(TIMEOUT)


class TestDeadline:
    """What is done with a predict that takes too long."""

    def test_the_client_gets_504_while_the_thread_is_stuck(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app, timeout=0.1)
        client = server.connect()
        client.get("/slow")
        reply = client.read_reply()
        assert (reply.status, reply.headers["connection"]) == (504, "close")
        assert json.loads(reply.body)["error"]
        assert client.at_end
        (cycle,) = eventually(lambda: server.overdue)
        assert (cycle.request.head.path, cycle.status) == (b"/slow", 504)
        app.release.set()

    def test_the_late_answer_goes_nowhere_and_the_thread_serves_on(
        self, start: StartServer
    ) -> None:
        app = Blocking()
        server = start(app, timeout=0.1)
        client = server.connect()
        client.get("/slow")
        assert client.read_reply().status == 504
        app.release.set()
        assert client.at_end
        other = server.connect()
        other.get("/next")
        assert other.read_reply().body == b"GET /next "
        eventually(lambda: len(server.overdue) == 1)
        eventually(lambda: not server.server.executors.busy)

    def test_it_may_pass_while_an_answer_waits_for_the_loop(self, start: StartServer) -> None:
        """The answer was framed, so no 504 was sent, and it came too late: no byte was sent."""
        app = Blocking()
        server = start(app, timeout=5.0)
        client = server.connect()
        client.get()
        app.wait_until_begun()

        def pass_after_the_answer() -> None:
            connection = only(server)
            cycle = connection._cycle
            assert cycle
            app.release.set()
            eventually(lambda: cycle.is_over)
            connection.check(time.monotonic() + 6.0)

        server.call(pass_after_the_answer)
        assert client.read_reply().status == 504
        assert client.at_end

    def test_head_gets_no_body(self, start: StartServer) -> None:
        app = Blocking()
        client = start(app, timeout=0.1).connect()
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_reply("HEAD").status == 504
        assert client.at_end
        app.release.set()

    def test_one_whose_client_has_left_is_found_too(self, start: StartServer) -> None:
        """It was not, and its thread served nobody ever after."""
        app = Blocking()
        server = start(app, timeout=0.5)
        client = server.connect()
        client.get()
        app.wait_until_begun()
        client.reset()
        eventually(lambda: only(server).is_lost)
        eventually(lambda: server.overdue)
        app.release.set()

    def test_a_stream_is_cut_and_closed(self, start: StartServer) -> None:
        app = Streaming()
        app.go_on.release()
        server = start(app, timeout=0.3)
        client = server.connect()
        client.get()
        client.read_head()
        assert client.read_chunk() == b"x"
        assert client.at_end
        eventually(lambda: len(server.overdue) == 1)
        app.go_on.release(3)
        assert app.closed.wait(TIMEOUT)

    def test_a_stream_in_http_1_0_is_reset(self, start: StartServer) -> None:
        app = Streaming()
        app.go_on.release()
        client = start(app, timeout=0.3).connect()
        client.get(version="1.0")
        with pytest.raises(ConnectionResetError):
            client.read_to_end()
        app.go_on.release(3)
        assert app.closed.wait(TIMEOUT)

    def test_it_counts_from_the_start_and_not_from_the_queue(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app, timeout=5.0)
        first, second = server.connect(), server.connect()
        first.get()
        app.wait_until_begun()
        second.get()
        eventually(lambda: server.pending == 2)
        let_pass(server, 6.0)
        assert first.read_reply().status == 504
        app.release.set()
        assert second.read_reply().status == 200

    def test_it_can_be_extended_from_inside(self, start: StartServer) -> None:
        blocking = Blocking()

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            environ["obworker.extend_deadline"](60.0)
            return blocking(environ, start_response)

        server = start(app, timeout=5.0)
        client = server.connect()
        client.get()
        blocking.wait_until_begun()
        let_pass(server, 55.0)
        assert not server.overdue
        let_pass(server, 65.0)
        assert client.read_reply().status == 504
        blocking.release.set()

    def test_a_part_of_a_stream_does_not_take_an_extension_back(self, start: StartServer) -> None:
        go_on = threading.Event()

        def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            environ["obworker.extend_deadline"](60.0)
            yield b"x"
            assert go_on.wait(TIMEOUT)
            yield b"y"

        server = start(app, timeout=5.0)
        client = server.connect()
        client.get()
        client.read_head()
        assert client.read_chunk() == b"x"
        let_pass(server, 55.0)
        go_on.set()
        assert client.read_chunk() == b"y"
        assert not server.overdue

    def test_none_with_a_timeout_of_zero(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app, timeout=0.0)
        client = server.connect()
        client.get()
        app.wait_until_begun()
        let_pass(server, 1e9)
        app.release.set()
        assert client.read_reply().status == 200


class Behind(NamedTuple):
    """The first client's request is in the application, and the second's waits for it."""

    app: Blocking
    server: Running
    first: Client
    second: Client


def one_behind_another(start: StartServer, version: str = "1.1") -> Behind:
    app = Blocking()
    server = start(app)
    first, second = server.connect(), server.connect()
    first.get("/1")
    app.wait_until_begun()
    second.get("/2", version=version)
    eventually(lambda: server.pending == 2)
    return Behind(app, server, first, second)


class TestClientsThatLeave:
    def test_before_the_answer(self, start: StartServer) -> None:
        """The server logged an error for each: it wrote to what was closed."""
        app = Blocking()
        server = start(app)
        client = server.connect()
        client.get()
        app.wait_until_begun()
        client.reset()
        eventually(lambda: only(server).is_lost)
        app.release.set()
        eventually(lambda: not server.active)
        assert not server.server.executors.busy

    def test_while_they_wait_for_a_thread_cost_no_call(self, start: StartServer) -> None:
        app, server, first, second = one_behind_another(start)
        second.reset()
        eventually(lambda: server.active == 1)
        app.release.set()
        assert first.read_reply().body == b"GET /1 "
        eventually(lambda: server.active == 1)
        assert app.calls == 1

    @pytest.mark.parametrize("leave", [Client.reset, Client.close])
    def test_during_a_stream_close_it(self, start: StartServer, leave: Any) -> None:
        app = Streaming()
        app.go_on.release()
        server = start(app)
        client = server.connect()
        client.get()
        client.read_head()
        leave(client)
        app.go_on.release(1000)
        assert app.closed.wait(TIMEOUT)
        assert app.produced < 1000


class TestClientsThatCloseWhileTheyWait:
    def test_are_dropped_when_they_have_left(self, start: StartServer) -> None:
        """To have closed both halves looks like to have closed one, until something is sent."""
        app, server, first, second = one_behind_another(start)
        second.close()
        eventually(lambda: server.pending == 1)
        app.release.set()
        assert first.read_reply().body == b"GET /1 "
        assert app.calls == 1

    def test_are_answered_when_they_only_send_no_more(self, start: StartServer) -> None:
        app, _, _, second = one_behind_another(start)
        second.half_close()
        assert second.read_line() == b"HTTP/1.1 100 Continue\r\n"
        assert second.read_line() == b"\r\n"
        app.release.set()
        assert second.read_reply().body == b"GET /2 "

    def test_are_told_nothing_that_http_1_0_does_not_know(self, start: StartServer) -> None:
        app, _, _, second = one_behind_another(start, version="1.0")
        second.half_close()
        app.release.set()
        assert second.read_reply().body == b"GET /2 "


@pytest.fixture
def _no_collections() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collections")
class TestMemory:
    """Of a connection that is over nothing is left for a garbage collection to find."""

    @pytest.mark.parametrize(
        "sent",
        [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12",
            b"nonsense\r\n\r\n",
        ],
    )
    def test_is_free_at_once(self, start: StartServer, sent: bytes) -> None:
        server = start(echo, limit_request_body=100)
        client = server.connect()
        client.send(sent)
        connection = weakref.ref(only(server))
        client.close()
        eventually(lambda: connection() is None)
