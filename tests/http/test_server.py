"""A server as a whole: how it accepts, and how it ends without losing a request."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from harness import eventually
from wire import AT_ONCE, TIMEOUT, Blocking, Client, Running, StartServer, body_of, echo

from obworker.errors import ServiceUnavailable
from obworker.http import acceptor, connection
from obworker.http import server as servers
from obworker.http.arrivals import Presence
from obworker.http.exchange import Exchange, Parcel
from obworker.http.state import State

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = f"00-{TRACE}-00f067aa0ba902b7-01"


class TestFailAll:
    """What becomes of requests when nothing of the process is worth anything any more."""

    def fail(self, server: Running) -> None:
        server.call(lambda: server.server.fail_all(ServiceUnavailable("broken")))

    def check(self, client: Client) -> None:
        reply = client.read_reply()
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert json.loads(reply.body) == {"error": "broken"}

    def test_all_that_is_in_predict_or_waits_for_it_gets_503(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app)
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.get()
        eventually(lambda: server.pending == 3)
        self.fail(server)
        for client in clients:
            self.check(client)
        app.release.set()
        eventually(lambda: server.pending == 0)
        assert app.calls == 1

    def test_what_comes_later_is_not_begun(self, start: StartServer) -> None:
        server = start(echo)
        client = server.connect()
        client.get()
        assert client.read_reply().status == 200
        self.fail(server)
        client.get()
        self.check(client)

    def test_the_application_itself_may_find_that_out(self, start: StartServer) -> None:
        def fail(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            executors = server.server.executors
            executors.call(server.server.fail_all, ServiceUnavailable("broken"))
            return echo(environ, start_response)

        server = start(fail)
        client = server.connect()
        client.get()
        self.check(client)
        assert client.at_end

    def test_so_does_one_whose_answer_waits_for_the_loop(self, start: StartServer) -> None:
        """It was neither sent nor replaced: the connection ended without a byte."""
        app = Blocking()
        server = start(app)
        client = server.connect()
        client.get()
        app.wait_until_begun()

        def fail_after_the_answer() -> None:
            (connection,) = server.server._service.connections
            cycle = connection._cycle
            assert cycle
            app.release.set()
            eventually(lambda: cycle.is_over)
            server.server.fail_all(ServiceUnavailable("broken"))

        server.call(fail_after_the_answer)
        self.check(client)

    def test_a_stream_is_cut(self, start: StartServer) -> None:
        go_on = threading.Semaphore(0)

        def stream(_environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            for _ in range(2):
                yield b"x"
                assert go_on.acquire(timeout=TIMEOUT)

        server = start(stream)
        client = server.connect()
        client.get()
        client.read_head()
        assert client.read_chunk() == b"x"
        self.fail(server)
        assert client.at_end
        go_on.release(2)


class TestDrain:
    def test_without_connections_it_is_done_at_once(self, start: StartServer) -> None:
        server = start(echo)
        server.drain()
        assert server.drained.wait(TIMEOUT)

    def test_afterwards_clients_are_refused(self, start: StartServer) -> None:
        server = start(echo)
        server.drain()
        assert server.drained.wait(TIMEOUT)
        with pytest.raises(ConnectionRefusedError):
            server.connect()

    def test_idle_connections_are_closed(self, start: StartServer) -> None:
        server = start(echo)
        used, fresh = server.connect(), server.connect()
        used.get()
        used.read_reply()
        eventually(lambda: server.active == 2)
        server.drain()
        assert used.at_end
        assert fresh.at_end
        assert server.drained.wait(TIMEOUT)

    def test_an_idle_connection_may_send_one_more(self, start: StartServer) -> None:
        server = start(echo)
        client = server.connect()
        client.get()
        client.read_reply()
        server.drain()
        client.get("/last")
        reply = client.read_reply()
        assert (reply.body, reply.headers["connection"]) == (b"GET /last ", "close")
        assert client.at_end

    def test_what_is_at_work_is_answered_and_closed(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app)
        client = server.connect()
        client.get()
        app.wait_until_begun()
        server.drain()
        assert not server.drained.is_set()
        app.release.set()
        reply = client.read_reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert client.at_end
        client.close()
        assert server.drained.wait(TIMEOUT)

    def test_what_is_pipelined_is_answered_too(self, start: StartServer) -> None:
        """Only the first was; the others were thrown away with it."""
        app = Blocking()
        server = start(app)
        client = server.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        app.wait_until_begun()
        server.drain()
        app.release.set()
        replies = [client.read_reply() for _ in range(3)]
        assert ["connection" in reply.headers for reply in replies] == [False, False, True]
        assert client.at_end

    def test_what_waits_for_a_thread_is_answered(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app, threads=1)
        clients = [server.connect() for _ in range(5)]
        for client in clients:
            client.get()
        eventually(lambda: server.pending == 5)
        server.drain()
        app.release.set()
        assert [client.read_reply().status for client in clients] == [200] * 5

    def test_a_request_that_has_half_come_is_answered(self, start: StartServer) -> None:
        server = start(echo)
        client = server.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
        eventually(lambda: server.active)
        server.drain()
        client.send(b"bc")
        assert client.read_reply().body == b"POST / abc"
        assert client.at_end

    def test_so_is_one_whose_head_has_half_come(self, start: StartServer) -> None:
        server = start(echo)
        client = server.connect()
        client.send(b"GET / HTTP/1.1\r\nHo")
        eventually(lambda: server.active)
        server.drain()
        client.send(b"st: a\r\n\r\n")
        assert client.read_reply().body == b"GET / "
        assert client.at_end

    @pytest.mark.parametrize("comes", ["before the drain", "in the drain"])
    def test_half_a_head_does_not_hold_it_up(
        self, start: StartServer, monkeypatch: pytest.MonkeyPatch, comes: str
    ) -> None:
        """It did for the whole of --header-timeout."""
        monkeypatch.setattr(connection, "DRAIN_BEGUN_TIMEOUT", 0.3)
        server = start(echo, header_timeout=60)
        client = server.connect()
        eventually(lambda: server.active)
        if comes == "in the drain":
            server.drain()
        client.send(b"GET / HTTP/1.1\r\nHo")
        (served,) = server.server._service.connections
        eventually(lambda: served.state is State.HEADER)
        if comes == "before the drain":
            server.drain()
        assert client.read_reply().status == 408
        client.close()
        assert server.drained.wait(TIMEOUT)

    def test_what_the_kernel_has_accepted_is_answered(self, start: StartServer) -> None:
        """Connections nobody has accepted yet are reset when a listener closes."""
        server = start(echo)
        clients: list[Client] = []

        def connect_while_the_loop_cannot_accept() -> None:
            for i in range(20):
                clients.append(server.connect())
                clients[-1].get(f"/{i}")
            server.server.drain(empty_queue=True, final=True)

        server.call(connect_while_the_loop_cannot_accept)
        for i, client in enumerate(clients):
            reply = client.read_reply()
            assert (reply.body, reply.headers["connection"]) == (f"GET /{i} ".encode(), "close")
        assert all(client.at_end for client in clients)

    def test_it_waits_for_the_close_of_a_body(self, start: StartServer) -> None:
        """The worker ends by os._exit: what still runs would never finish."""
        closing, release = threading.Event(), threading.Event()

        class Body:
            def __iter__(self) -> Iterator[bytes]:
                return iter([b"a"])

            def close(self) -> None:
                closing.set()
                assert release.wait(TIMEOUT)

        def app(environ: dict[str, Any], start_response: Any) -> Body:
            start_response("200 OK", [("Content-Length", "1")])
            return Body()

        server = start(app)
        client = server.connect()
        client.get()
        assert client.read_reply().body == b"a"
        client.close()
        assert closing.wait(TIMEOUT)
        server.drain()
        assert not server.drained.wait(3 * acceptor.ACCEPT_GRACE)
        release.set()
        assert server.drained.wait(TIMEOUT)

    def test_it_waits_for_a_predict_whose_client_has_left(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app)
        client = server.connect()
        client.get()
        app.wait_until_begun()
        client.reset()
        server.drain()
        assert not server.drained.wait(3 * acceptor.ACCEPT_GRACE)
        app.release.set()
        assert server.drained.wait(TIMEOUT)

    def test_it_does_not_wait_for_a_predict_past_its_deadline(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app, timeout=0.1)
        client = server.connect()
        client.get()
        assert client.read_reply().status == 504
        client.close()
        server.drain()
        assert server.drained.wait(TIMEOUT)
        app.release.set()

    def test_it_does_not_wait_for_a_client_that_reads_nothing(self, start: StartServer) -> None:
        def large(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            return [b"x" * (16 << 20)]

        server = start(large, body_timeout=0.2)
        client = server.connect(receive_buffer=4096)
        client.get()
        client.read_head()
        server.drain()
        assert server.drained.wait(TIMEOUT)

    def test_twice_is_once(self, start: StartServer) -> None:
        server = start(echo)
        server.drain()
        server.drain()
        assert server.drained.wait(TIMEOUT)


class TestMovedWhileItDrains:
    """Who has closed its half is looked at twice before it is let in, and a drain began."""

    @pytest.fixture
    def draining(self, start: StartServer) -> Iterator[Running]:
        server = start(echo)
        service = server.server._service
        with closing(Exchange.create(1)) as exchange:
            service.exchange, service.draining = exchange, True
            yield server
            service.exchange, service.draining = None, False

    def test_the_request_is_answered(self, draining: Running) -> None:
        """The connection moved on without it, and nobody ever answered."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        client = Client(theirs)
        client.half_close()
        request = b"GET /moved HTTP/1.1\r\nHost: a\r\n\r\n"
        parcel = Parcel(ours, request, b"", time.monotonic(), 0)
        draining.call(lambda: draining.server._arrivals._attach(parcel, Presence.HALF))
        assert client.read_reply().body == b"GET /moved "
        client.close()


def test_who_has_closed_its_half_is_doubted_once(start: StartServer) -> None:
    """At each doubt the executor was taken by others, and it moved, to wait behind all of them:
    of 4 such clients beside 60 others each waited 4.2 s, and the others 0.16."""
    server = start(echo)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with closing(Client(theirs)) as client:
        client.half_close()
        request = b"GET /moved HTTP/1.1\r\nHost: a\r\n\r\n"
        parcel = Parcel(ours, request, b"", time.monotonic(), attempt=1)
        server.call(lambda: server.server._take_in(parcel))
        assert client.read_reply().body == b"GET /moved "


def test_who_is_doubted_keeps_a_place_meanwhile(start: StartServer) -> None:
    """It had waited, and got 503: newcomers had taken all places when it was let in."""
    server = start(echo)
    queue, held = server.server.queue, [0]
    queue._on_waiting = held.append
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with closing(Exchange.create(1)) as exchange, closing(Client(theirs)) as client:
        client.half_close()
        assert exchange.reserve()
        request = b"GET /moved HTTP/1.1\r\nHost: a\r\n\r\n"
        assert exchange.put(Parcel(ours, request, b"", time.monotonic(), attempt=0))
        ours.close()

        def take() -> None:
            queue._places = exchange
            assert queue._take(exchange)
            assert (exchange.taken(), held[-1]) == (1, 1)

        server.call(take)
        assert client.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.read_reply().body == b"GET /moved "
        assert (exchange.taken(), held[-1]) == (0, 0)


def test_who_leaves_with_the_last_that_moves_holds_no_place_any_more(start: StartServer) -> None:
    """A place was counted with the process that ended and with the request that had moved."""
    server = start(echo)
    made, go = server.server, threading.Event()
    held, at_the_end = [0], []
    made.queue._on_waiting = held.append
    made._on_drained = lambda: at_the_end.append(held[-1])
    with closing(Exchange.create(1)) as exchange:
        server.call(lambda: made.reactor.post(made.executors.submit, go.wait, lambda _: None))
        eventually(lambda: made.executors.busy and not made.executors.is_inline)
        client = server.connect()
        client.get()
        eventually(lambda: held[-1] == 1)

        def leave() -> None:
            made._service.exchange = made.queue._exchange = exchange
            made.queue.has_peers = True
            made.drain(empty_queue=False, final=False)
            made.refuse_queued()

        server.call(leave)
        eventually(lambda: at_the_end)
        go.set()
        parcel = exchange.take()
        assert parcel is not None
        parcel.client.close()
    assert at_the_end == [0]


class TestSharedListener:
    """One that others accept from, now or later: other workers, or systemd's next instance."""

    def test_its_queue_is_left_for_whoever_serves_next(self, start: StartServer) -> None:
        app = Blocking()
        with socket.create_server(("127.0.0.1", 0)) as lender:
            first = start(app, lender.dup())
            busy = first.connect()
            busy.get()
            app.wait_until_begun()
            first.drain(empty_queue=False)
            waiting = first.connect()
            waiting.get("/later")
            app.release.set()
            assert busy.read_reply().status == 200
            busy.close()
            assert first.drained.wait(TIMEOUT)
            second = start(echo, lender.dup())
            assert waiting.read_reply().body == b"GET /later "
            assert app.calls == 1
            waiting.close()
            second.drain()


class TestAccepting:
    def test_a_unix_socket(self, start: StartServer, tmp_path: Path) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        seen: list[dict[str, Any]] = []

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            seen.append(environ)
            return echo(environ, start_response)

        server = start(app, listener)
        client = server.connect()
        for _ in range(2):
            client.post("/", b"abc")
            assert client.read_reply().body == b"POST / abc"
        assert (seen[0]["SERVER_NAME"], seen[0]["REMOTE_ADDR"]) == ("localhost", "")
        client.get("/", "Connection: close")
        assert client.read_reply().status == 200
        assert client.at_end

    def test_ipv6(self, start: StartServer) -> None:
        listener = socket.socket(socket.AF_INET6)
        try:
            listener.bind(("::1", 0))
        except OSError:
            listener.close()
            pytest.skip("no IPv6 here")
        client = start(echo, listener).connect()
        client.get()
        assert client.read_reply().status == 200

    def test_while_every_thread_is_busy(self, start: StartServer) -> None:
        """Health probes and clients of an idle worker cannot wait for this one's predict."""
        app = Blocking()
        server = start(app)
        first = server.connect()
        first.get()
        app.wait_until_begun()
        others = [server.connect() for _ in range(5)]
        eventually(lambda: server.active == 6)
        for client in others:
            client.send(b"nonsense\r\n\r\n")
            assert client.read_reply().status == 400
        app.release.set()
        assert first.read_reply().status == 200

    def test_as_soon_as_a_thread_is_free(
        self, start: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A new connection waited 5 ms for another worker, however soon this one was free."""
        monkeypatch.setattr(acceptor, "YIELD_TIME", 3600.0)
        app = Blocking()
        server = start(app)
        first, second = server.connect(), server.connect()
        first.get("/1", "Connection: close")
        second.get("/2")
        app.wait_until_begun()
        app.release.set()
        assert first.read_reply().status == 200
        assert second.read_reply().status == 200

    def test_a_crowd_while_every_thread_is_busy(
        self, start: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each waited for all before it to be left to other workers, one by one."""
        monkeypatch.setattr(acceptor, "YIELD_TIME", 0.2)
        app = Blocking()
        server = start(app)
        first = server.connect()
        first.get()
        app.wait_until_begun()
        for _ in range(64):
            server.connect()
        eventually(lambda: server.active == 65, 4)
        app.release.set()
        assert first.read_reply().status == 200

    def test_many_clients_at_once(self, start: StartServer) -> None:
        server = start(echo, threads=4)
        clients = [server.connect() for _ in range(100)]
        for round_ in range(3):
            for i, client in enumerate(clients):
                client.post(f"/{round_}/{i}", b"x" * i)
            for i, client in enumerate(clients):
                assert client.read_reply().body == f"POST /{round_}/{i} ".encode() + b"x" * i


def printed(capfd: pytest.CaptureFixture[str], *, lines: int) -> str:
    """Wait until so many lines were printed, and return them."""
    output = ""

    def they_are_there() -> bool:
        nonlocal output
        output += capfd.readouterr().out
        return output.count("\n") == lines

    eventually(they_are_there)
    return output


class TestAccessLog:
    def test_a_line_for_each_request(
        self, start: StartServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        client = start(echo, access_log=True).connect()
        for path in ("/a?b", "/c"):
            client.get(path)
            client.read_reply()
        output = printed(capfd, lines=2)
        assert re.search(
            r"""^127.0.0.1 \[\S+\] "GET /a\?b HTTP/1.1" 200 7 [\d.]+ms"""
            r" queued=[\d.]+ms predict=[\d.]+ms slot=- id=\S+$",
            output,
            re.MULTILINE,
        )

    def test_where_the_time_went(self, start: StartServer, tmp_path: Path) -> None:
        path = tmp_path / "access"
        app = Blocking()
        server = start(app, access_log=True, access_log_file=str(path), access_log_format="json")
        first, second = server.connect(), server.connect()
        first.post("/", b"", "X-Request-ID: first")
        app.wait_until_begun()
        second.post("/", b"", "X-Request-ID: second")
        time.sleep(0.1)  # both take so long, each in its own way
        app.release.set()
        assert (first.read_reply().status, second.read_reply().status) == (200, 200)
        eventually(lambda: path.read_text().count("\n") == 2)
        lines = map(json.loads, path.read_text().splitlines())
        found = {line["request_id"]: line for line in lines}
        assert found["first"]["predict"] >= 0.1 > found["first"]["queued"]
        assert found["second"]["queued"] > found["second"]["predict"]
        for line in found.values():
            assert line["queued"] + line["predict"] <= line["duration"] + 0.001

    def test_a_request_that_does_not_reach_predict_spent_no_time_there(
        self, start: StartServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "access"
        logged = {"access_log_file": str(path), "access_log_format": "json"}
        client = start(echo, access_log=True, **logged).connect()
        client.get(AT_ONCE)
        client.read_reply()
        eventually(lambda: path.exists() and "\n" in path.read_text())
        assert json.loads(path.read_text())["predict"] == 0.0

    def test_a_request_that_was_refused_has_one_too(
        self, start: StartServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "access"
        app = Blocking()
        logged = {"access_log_file": str(path), "access_log_format": "json"}
        server = start(app, access_log=True, max_queue=0, **logged)
        first, second = server.connect(), server.connect()
        first.post("/", b"")
        app.wait_until_begun()
        second.post("/no?room", b"", "X-Request-ID: refused", f"traceparent: {TRACED}")
        reply = second.read_reply()
        assert reply.status == 503
        eventually(lambda: path.exists() and "\n" in path.read_text())
        line = json.loads(path.read_text())
        app.release.set()
        assert 0 <= line.pop("queued") == line.pop("duration") < TIMEOUT
        assert line == {
            "time": line["time"],
            "client": "127.0.0.1",
            "method": "POST",
            "target": "/no?room",
            "protocol": "HTTP/1.1",
            "status": 503,
            "bytes": len(reply.body),
            "predict": 0.0,
            "slot": None,
            "request_id": "refused",
            "trace_id": TRACE,
        }

    @pytest.mark.parametrize(
        ("fields", "status"),
        [(b"Content-Length: 9", 413), (b"Transfer-Encoding: chunked\r\n\r\nno size", 400)],
    )
    def test_one_whose_body_is_refused_is_named_as_any_other(
        self, start: StartServer, tmp_path: Path, fields: bytes, status: int
    ) -> None:
        path = tmp_path / "access"
        logged = {"access_log_file": str(path), "access_log_format": "json"}
        client = start(echo, access_log=True, limit_request_body=8, **logged).connect()
        head = b"POST /large?1 HTTP/1.1\r\nHost: a\r\nX-Request-ID: r\r\n"
        client.send(head, fields, b"\r\n\r\n")
        reply = client.read_reply()
        assert (reply.status, reply.headers["x-request-id"]) == (status, "r")
        eventually(lambda: path.exists() and "\n" in path.read_text())
        line = json.loads(path.read_text())
        shown = (line["method"], line["target"], line["status"], line["bytes"], line["request_id"])
        assert shown == ("POST", "/large?1", status, len(reply.body), "r")

    def test_what_is_not_understood_has_one_without_a_name(
        self, start: StartServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        client = start(echo, access_log=True).connect()
        client.send(b"GET nonsense\r\n\r\n")
        reply = client.read_reply()
        assert reply.status == 400
        output = printed(capfd, lines=1)
        wanted = rf'127.0.0.1 \[\S+\] "-" 400 {len(reply.body)} 0.0ms .* id=-\n'
        assert re.fullmatch(wanted, output)

    def test_a_file_for_it_can_be_renamed(self, start: StartServer, tmp_path: Path) -> None:
        path = tmp_path / "access"
        running = start(echo, access_log=True, access_log_file=str(path))
        client = running.connect()
        client.get("/before")
        client.read_reply()
        eventually(lambda: "/before" in path.read_text())
        path.rename(tmp_path / "access.1")
        running.call(running.server.reopen_access_log)
        client.get("/after")
        client.read_reply()
        eventually(path.exists)
        eventually(lambda: "/after" in path.read_text())
        assert "/before" not in path.read_text()

    def test_one_that_fails_stops_the_log_and_not_the_server(
        self, start: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """`obworker ./model | head -1`: every connection hung after its first answer."""
        client = start(echo, access_log=True, access_log_file="/dev/full").connect()
        for _ in range(3):
            client.get()
            assert client.read_reply().status == 200
        eventually(lambda: "no access log for now" in caplog.text)
        client.get()
        assert client.read_reply().status == 200


def test_the_log_tells_of_a_503_before_there_is_a_head(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def has_no_memory(_parser: object, _chunk: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr("obworker.http.parser.RequestParser.feed", has_no_memory)
    client = start(echo).connect()
    client.get()
    assert client.read_reply().status == 503
    eventually(lambda: "refused a request with 503" in caplog.text)


def checked(environ: dict[str, Any], start_response: Any) -> Any:
    """Do a bit of everything that PEP 3333 has, by path."""
    body = body_of(environ)
    headers = [("Content-Type", "text/plain")]
    if environ["PATH_INFO"] == "/stream":
        start_response("200 OK", headers)
        return iter([b"a", b"b", body])
    if environ["PATH_INFO"] == "/write":
        write = start_response("200 OK", headers)
        write(b"a")
        return [body]
    if environ["PATH_INFO"] == "/empty":
        start_response("204 No Content", [])
        return []
    start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@pytest.fixture
def validated(start: StartServer) -> Running:
    """Return a server whose every call of the application is checked against PEP 3333."""
    return start(validator(checked))


class TestValidated:
    """wsgiref.validate finds nothing wrong: an AssertionError of its would be a 500."""

    def test_get(self, validated: Running) -> None:
        client = validated.connect()
        for target in ("/", "/a%20b?c=d", "http://test/x"):
            client.get(target)
            assert client.read_reply().status == 200

    def test_post(self, validated: Running) -> None:
        client = validated.connect()
        client.post("/", b"hello", "Content-Type: text/plain")
        assert client.read_reply().body == b"hello"

    def test_chunked_post(self, validated: Running) -> None:
        client = validated.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert client.read_reply().body == b"hello"

    def test_head(self, validated: Running) -> None:
        client = validated.connect()
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_reply("HEAD").status == 200

    def test_stream(self, validated: Running) -> None:
        client = validated.connect()
        client.post("/stream", b"c")
        assert client.read_reply().chunks == [b"a", b"b", b"c"]

    def test_write(self, validated: Running) -> None:
        client = validated.connect()
        client.post("/write", b"b")
        assert client.read_reply().chunks == [b"a", b"b"]

    def test_no_content(self, validated: Running) -> None:
        client = validated.connect()
        client.get("/empty")
        assert client.read_reply().status == 204

    def test_http_1_0(self, validated: Running) -> None:
        client = validated.connect()
        client.get("/stream", version="1.0")
        assert client.read_reply().body == b"ab"


def test_what_waits_for_a_thread_gets_503_where_none_will_be_free(start: StartServer) -> None:
    app = Blocking()
    server = start(app)
    running, *waiting = [server.connect() for _ in range(4)]
    running.get("/running")
    app.wait_until_begun()
    for client in waiting:
        client.get("/waiting")
    eventually(lambda: server.pending == 4)
    server.call(server.server.refuse_queued)
    for client in waiting:
        reply = client.read_reply()
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert reply.headers["connection"] == "close"
    late = server.connect()
    late.get("/late")
    assert late.read_reply().status == 503
    app.release.set()
    assert running.read_reply().status == 200
    eventually(lambda: server.pending == 0)


class Looked:
    """Stands for a connection whose deadline is looked at, and says when."""

    def __init__(self, server: Running, order: list[str]) -> None:
        self._server = server
        self._order = order

    def check(self, _now: float) -> None:
        self._order.append("looked")
        if len(self._order) == 1:
            self._server.server.reactor.post(self._order.append, "served")


def test_many_deadlines_hold_up_nobody(start: StartServer) -> None:
    server, order = start(echo), list[str]()
    many: set[Any] = {Looked(server, order) for _ in range(3 * servers.CHECKED_AT_ONCE)}
    server.call(lambda: server.server._service.connections.update(many))
    eventually(lambda: order.count("looked") >= len(many))
    server.call(lambda: server.server._service.connections.difference_update(many))
    assert order.index("served") == servers.CHECKED_AT_ONCE


def test_the_deadlines_of_many_are_kept(start: StartServer) -> None:
    server = start(echo, header_timeout=0.5, keep_alive=0.5)
    for _ in range(3 * servers.CHECKED_AT_ONCE):
        server.connect()
    eventually(lambda: server.active == 3 * servers.CHECKED_AT_ONCE)
    eventually(lambda: server.active == 0)
