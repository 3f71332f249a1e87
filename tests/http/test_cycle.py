"""The server's side of PEP 3333, with an outlet that records what a connection would be given."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sys
import threading
import time
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from harness import eventually
from wire import Collector

from obworker import request_context
from obworker.http.cycle import CLIENT_CLOSED_REQUEST, Application, Cycle
from obworker.http.environ import base_environ, make_environ
from obworker.http.parser import Limits, RequestParser
from obworker.http.response import Headers
from obworker.http.tally import Tally

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
TIMEOUT = 10.0


class Outlet:
    """A connection that takes every part at once, unless it `stalls`."""

    def __init__(self, *, may_persist: bool = True, stalls: bool = False) -> None:
        self.may_persist = may_persist
        self.date = DATE
        self.parts: list[bytes] = []
        self.finished = 0
        self._stalls = stalls

    def write(self, cycle: Cycle, part: bytes) -> None:
        assert not self.finished
        self.parts.append(part)
        if not self._stalls:
            cycle.make_room()

    def finish(self, cycle: Cycle, rest: bytes) -> None:
        self.finished += 1
        self.parts.append(rest)

    @property
    def sent(self) -> bytes:
        return b"".join(self.parts)

    @property
    def status(self) -> int:
        return int(self.sent[9:12])

    @property
    def head(self) -> list[str]:
        return self.sent.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]

    @property
    def body(self) -> bytes:
        return self.sent.partition(b"\r\n\r\n")[2]


def make_cycle(
    app: Application,
    outlet: Outlet,
    start: str = "GET / HTTP/1.1",
    fields: str = "",
    response_fields: Headers = (),
    body: bytes = b"",
    **more: Any,
) -> Cycle:
    collector = Collector()
    keep = "Connection: keep-alive\r\n" if start.endswith("1.0") else ""
    raw = f"{start}\r\nHost: a\r\n{keep}{fields}\r\n".encode() + body
    RequestParser(Limits(), collector).feed(raw)
    (request,) = collector.requests
    environ = make_environ(base_environ("", ""), request)
    return Cycle(app, environ, request, outlet, fields=response_fields, **more)


def serve(cycle: Cycle) -> None:
    """Run a cycle, and finish its response as its connection would."""
    outlet = cycle._outlet
    assert isinstance(outlet, Outlet)
    outlet.finish(cycle, cycle.run())


def run(
    app: Application, start: str = "GET / HTTP/1.1", *, may_persist: bool = True, **more: Any
) -> tuple[Outlet, Cycle]:
    """Run a whole cycle, which must finish once."""
    outlet = Outlet(may_persist=may_persist)
    cycle = make_cycle(app, outlet, start, **more)
    serve(cycle)
    assert outlet.finished == 1
    return outlet, cycle


def answering(
    body: Iterable[bytes], *headers: tuple[str, str], status: str = "200 OK"
) -> Application:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, list(headers))
        return body

    return app


class Body:
    """An iterable with a close, which counts its calls."""

    def __init__(self, *parts: bytes, error: BaseException | None = None) -> None:
        self.closed = 0
        self.produced = 0
        self._parts = parts
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self.produced += 1
            yield part
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return what was logged as an error."""
    caplog.set_level(logging.ERROR, "obworker.http")
    return lambda: caplog.text


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ("Content-Length: 2\r\n", b"hi"),
        ("Transfer-Encoding: chunked\r\n", b"2\r\nhi\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
def test_the_application_reads_the_body_that_nobody_else_keeps(fields: str, body: bytes) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    outlet = Outlet()
    cycle = make_cycle(app, outlet, "POST / HTTP/1.1", fields, body=body)
    serve(cycle)
    assert outlet.body == b"hi"
    assert cycle.request.body == b""


class TestBody:
    """How each kind of body is sent."""

    def test_a_list_of_one_is_one_write_with_its_length(self) -> None:
        outlet, cycle = run(answering([b"hello"], ("X-A", "b")))
        assert outlet.parts == [
            b"HTTP/1.1 200 OK\r\nX-A: b\r\nServer: obworker\r\n"
            b"Date: " + DATE + b"\r\nContent-Length: 5\r\n\r\nhello"
        ]
        assert (cycle.status, cycle.sent, cycle.keep_alive) == (200, 5, True)

    @pytest.mark.parametrize("body", [[], [b""], (), iter([]), [b"", b""], iter([b""])])
    def test_an_empty_one_has_a_length_of_zero(self, body: Iterable[bytes]) -> None:
        outlet, cycle = run(answering(body))
        assert "Content-Length: 0" in outlet.head
        assert outlet.body == b""
        assert cycle.keep_alive

    @pytest.mark.parametrize("count", [1, 2])
    def test_what_is_no_bytes_is_as_long_as_its_bytes(self, count: int) -> None:
        """The client took what was beyond its items for the next response."""
        numbers = array("I", [1, 2, 3])
        part: Any = memoryview(numbers)
        outlet, cycle = run(answering([part] * count))
        if count == 1:
            assert "Content-Length: 12" in outlet.head
            assert outlet.body == numbers.tobytes()
        else:
            assert outlet.body == (b"c\r\n%b\r\n" % numbers.tobytes()) * 2 + b"0\r\n\r\n"
        assert cycle.sent == 12 * count

    @pytest.mark.parametrize("body", [[b"ab", b"", b"c"], (b"ab", b"c"), iter([b"ab", b"c"])])
    def test_several_parts_are_chunks_without_empty_ones(self, body: Iterable[bytes]) -> None:
        outlet, cycle = run(answering(body))
        assert "Transfer-Encoding: chunked" in outlet.head
        assert outlet.body == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        assert (cycle.sent, cycle.keep_alive) == (3, True)

    def test_each_part_is_sent_before_the_next_is_asked_for(self) -> None:
        outlet = Outlet()
        seen = []

        def parts() -> Iterator[bytes]:
            for i in range(3):
                seen.append(len(outlet.parts))
                yield b"%d" % i

        serve(make_cycle(answering(parts()), outlet))
        assert seen == [0, 1, 2]

    def test_a_declared_length_is_kept_to(self) -> None:
        outlet, cycle = run(answering(iter([b"ab", b"c"]), ("content-length", "3")))
        assert outlet.body == b"abc"
        assert not any(line.startswith("Transfer-Encoding") for line in outlet.head)
        assert sum(line.lower().startswith("content-length") for line in outlet.head) == 1
        assert cycle.keep_alive

    @pytest.mark.parametrize("make", [bytearray, memoryview])
    def test_other_bytes_are_taken(self, make: Callable[[bytes], Any]) -> None:
        assert run(answering([make(b"ab")]))[0].body == b"ab"
        assert run(answering(iter([make(b"ab")])))[0].body == b"2\r\nab\r\n0\r\n\r\n"

    def test_start_response_may_come_with_the_first_part(self) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("201 Created", [])
            yield b"a"

        assert run(app)[0].status == 201

    def test_http_1_0_with_a_length_may_persist(self) -> None:
        outlet, cycle = run(answering([b"a"]), "GET / HTTP/1.0")
        assert cycle.keep_alive
        assert "Connection: keep-alive" in outlet.head

    def test_http_1_0_without_one_closes(self) -> None:
        outlet, cycle = run(answering(iter([b"a", b"b"])), "GET / HTTP/1.0")
        assert outlet.body == b"ab"
        assert not cycle.keep_alive
        assert "Connection: close" in outlet.head

    def test_a_connection_that_may_not_persist_is_closed(self) -> None:
        outlet, cycle = run(answering([b"a"]), may_persist=False)
        assert not cycle.keep_alive
        assert "Connection: close" in outlet.head

    @pytest.mark.parametrize("body", [[b"abc"], iter([b"a", b"bc"]), []])
    @pytest.mark.parametrize("start", ["HEAD / HTTP/1.1", "HEAD / HTTP/1.0"])
    def test_head_gets_none(self, body: Iterable[bytes], start: str) -> None:
        outlet, cycle = run(answering(body, ("Content-Length", "3")), start)
        assert outlet.body == b""
        assert "Content-Length: 3" in outlet.head
        assert (cycle.sent, cycle.keep_alive) == (0, True)

    def test_head_does_not_run_through_a_body_that_never_ends(self) -> None:
        def endless() -> Iterator[bytes]:
            try:
                while True:
                    yield b"x"
            finally:
                ended.append(True)

        ended: list[bool] = []
        outlet, _ = run(answering(endless()), "HEAD / HTTP/1.1")
        assert outlet.body == b""
        assert ended == [True]

    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    @pytest.mark.parametrize("body", [[b"abc"], iter([b"a"]), []])
    def test_a_status_without_body_gets_none(self, status: str, body: Iterable[bytes]) -> None:
        outlet, cycle = run(answering(body, status=status))
        assert outlet.body == b""
        assert not any(line.startswith(("Transfer", "Content")) for line in outlet.head)
        assert cycle.keep_alive

    def test_204_has_no_length_and_304_keeps_it(self) -> None:
        for status, expected in (("204 No Content", False), ("304 Not Modified", True)):
            outlet, _ = run(answering([], ("Content-Length", "7"), status=status))
            assert ("Content-Length: 7" in outlet.head) is expected


class TestStartResponse:
    """What PEP 3333 says of start_response and write."""

    def test_twice_is_an_error(self, errors: Callable[[], str]) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            start_response("201 Created", [])
            return [b"a"]

        assert run(app)[0].status == 500
        assert "twice" in errors()

    def test_never_is_an_error(self, errors: Callable[[], str]) -> None:
        for body in ([b"a"], [], [b"a", b"b"]):
            assert run(lambda environ, start_response, body=body: body)[0].status == 500  # type: ignore[misc]
        assert "before it called start_response" in errors()

    def test_with_exc_info_it_replaces_what_was_not_sent(self) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [("X-Old", "1")])
            try:
                raise ValueError
            except ValueError:
                start_response("503 Later", [("X-New", "1")], sys.exc_info())
            return [b"sorry"]

        outlet, cycle = run(app)
        assert (outlet.status, cycle.status, outlet.body) == (503, 503, b"sorry")
        assert "X-New: 1" in outlet.head
        assert "X-Old: 1" not in outlet.head

    def test_with_exc_info_it_raises_once_the_head_is_sent(self, errors: Callable[[], str]) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield b"a"
            try:
                raise ValueError("too late")
            except ValueError:
                start_response("500 Error", [], sys.exc_info())
            yield b"never"

        outlet, cycle = run(app)
        assert outlet.body == b"1\r\na\r\n"
        assert not cycle.keep_alive
        assert "ValueError: too late" in errors()

    def test_write_sends_at_once_and_before_the_body(self) -> None:
        outlet = Outlet()

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            write = start_response("200 OK", [])
            write(b"ab")
            assert outlet.body == b"2\r\nab\r\n"
            return [b"c"]

        serve(make_cycle(app, outlet))
        assert outlet.body == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        assert outlet.sent.count(b"HTTP/1.1 200 OK") == 1

    def test_the_application_may_change_its_list_of_headers_afterwards(self) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            headers = [("X", "1")]
            start_response("200 OK", headers)
            headers.append(("Y", "2"))
            return [b"a"]

        assert not any(line.startswith("Y") for line in run(app)[0].head)

    def test_what_is_wrong_with_a_head_is_raised_where_it_is_given(self) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            with pytest.raises(ValueError, match="line break"):
                start_response("200 OK", [("X", "a\r\nY: b")])
            start_response("400 Bad Request", [])
            return [b"a"]

        assert run(app)[0].status == 400

    @pytest.mark.parametrize(
        ("status", "header"),
        [
            ("200 OK", ("X", "a\r\nY: b")),
            ("200 OK", ("X\r\n", "a")),
            ("200 OK", ("X", "中")),
            ("200 OK\r\nX: y", ("X", "a")),
            ("abc", ("X", "a")),
            ("100 Continue", ("X", "a")),
            ("200 OK", ("Content-Length", "1x")),
            ("200 OK", ("Content-Length", "-1")),
        ],
    )
    @pytest.mark.parametrize("body", [[b"a"], [b"a", b"b"], []])
    def test_a_head_that_would_break_the_framing_is_a_500(
        self, status: str, header: tuple[str, str], body: list[bytes], errors: Callable[[], str]
    ) -> None:
        outlet, cycle = run(answering(body, header, status=status))
        assert (outlet.status, cycle.status) == (500, 500)
        assert outlet.sent.count(b"HTTP/1.1") == 1
        assert "Traceback" in errors()


class TestFailure:
    """An application that fails: before the first byte there is a 500, after it a cut."""

    def check_500(self, outlet: Outlet, cycle: Cycle) -> None:
        assert (outlet.status, cycle.status) == (500, 500)
        assert outlet.body == b'{"error":"Internal Server Error"}'
        assert "Connection: close" in outlet.head
        assert not cycle.keep_alive
        assert not cycle.needs_reset

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("x"),
            SystemExit(3),
            KeyboardInterrupt(),
            asyncio.CancelledError(),
            GeneratorExit(),
        ],
        ids=repr,
    )
    def test_whatever_it_raises_is_answered(self, error: BaseException) -> None:
        """On an executor's thread: what is not caught there ends it, and the worker hangs."""

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            raise error

        outlet = Outlet()
        cycle = make_cycle(app, outlet)
        ended = []

        def run_here() -> None:
            serve(cycle)
            ended.append(True)

        thread = threading.Thread(target=run_here)
        thread.start()
        thread.join(TIMEOUT)
        assert ended
        assert outlet.finished == 1
        self.check_500(outlet, cycle)

    def test_ctrl_c_on_the_main_thread_goes_through(self) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            raise KeyboardInterrupt

        outlet = Outlet()
        with pytest.raises(KeyboardInterrupt):
            serve(make_cycle(app, outlet))

    def test_before_the_first_part_it_is_a_500(self) -> None:
        body = Body(error=ValueError("early"))
        self.check_500(*run(answering(body)))
        assert body.closed == 1

    @pytest.mark.parametrize(
        ("start", "headers", "sent", "reset"),
        [
            ("GET / HTTP/1.1", [], b"1\r\na\r\n", False),
            ("GET / HTTP/1.1", [("Content-Length", "5")], b"a", False),
            ("GET / HTTP/1.0", [("Content-Length", "5")], b"a", False),
            ("GET / HTTP/1.0", [], b"a", True),
        ],
    )
    def test_after_it_the_body_is_cut(
        self, start: str, headers: list[tuple[str, str]], sent: bytes, reset: bool
    ) -> None:
        body = Body(b"a", error=ValueError("late"))
        outlet, cycle = run(answering(body, *headers), start)
        assert outlet.body == sent
        assert body.closed == 1
        assert not cycle.keep_alive
        assert cycle.needs_reset is reset

    def test_head_gets_no_body_of_the_error_either(self) -> None:
        outlet, _ = run(answering(Body(error=ValueError("x"))), "HEAD / HTTP/1.1")
        assert (outlet.status, outlet.body) == (500, b"")

    @pytest.mark.parametrize(
        "body", [["text"], ["text", "more"], [1], [None], iter([{1: 2}]), 5, None]
    )
    def test_a_body_that_is_not_bytes_is_a_500(self, body: Any) -> None:
        """Not an empty reply: nothing was sent before it failed."""
        self.check_500(*run(answering(body)))

    @pytest.mark.parametrize("length", ["2", "4"])
    def test_a_whole_body_of_another_length_is_a_500(self, length: str) -> None:
        self.check_500(*run(answering([b"abc"], ("Content-Length", length))))

    def test_parts_that_are_fewer_than_declared_are_cut(self) -> None:
        outlet, cycle = run(answering([b"a", b"b"], ("Content-Length", "3")))
        assert outlet.body == b"ab"
        assert not cycle.keep_alive

    def test_no_parts_where_some_were_declared_is_a_500(self) -> None:
        self.check_500(*run(answering([], ("Content-Length", "3"))))

    def test_parts_never_exceed_what_was_declared(self) -> None:
        outlet, cycle = run(answering([b"a", b"bcd"], ("Content-Length", "3")))
        assert outlet.body == b"a"
        assert not cycle.keep_alive


class TestClose:
    """PEP 3333: close is called whatever happens, and once."""

    @pytest.mark.parametrize("start", ["GET / HTTP/1.1", "HEAD / HTTP/1.1", "GET / HTTP/1.0"])
    def test_after_the_last_part(self, start: str) -> None:
        body = Body(b"a", b"b")
        run(answering(body), start)
        assert body.closed == 1

    def test_before_finish_so_that_a_drain_waits_for_it(self) -> None:
        outlet = Outlet()
        finished_then = []

        class Watching(Body):
            def close(self) -> None:
                finished_then.append(outlet.finished)

        serve(make_cycle(answering(Watching(b"a")), outlet))
        assert finished_then == [0]

    @pytest.mark.parametrize("kind", [ValueError, SystemExit])
    def test_one_that_fails_changes_nothing(
        self, kind: type[BaseException], errors: Callable[[], str]
    ) -> None:
        """It finished the response a second time, once; and cut it short where it was no error."""

        class Failing(Body):
            def close(self) -> None:
                raise kind("in close")

        outlet, cycle = run(answering(Failing(b"a")))
        assert outlet.body == b"1\r\na\r\n0\r\n\r\n"
        assert cycle.keep_alive
        assert f"{kind.__name__}: in close" in errors()

    def test_when_the_client_is_gone(self) -> None:
        body = Body(*[b"x"] * 100)
        outlet = Outlet()
        cycle = make_cycle(answering(body), outlet)
        write = outlet.write

        def leave_after_two(cycle: Cycle, part: bytes) -> None:
            write(cycle, part)
            if len(outlet.parts) == 2:
                cycle.lose_client()

        outlet.write = leave_after_two  # type: ignore[method-assign]
        serve(cycle)
        assert outlet.finished == 1
        assert body.produced == 3
        assert body.closed == 1


class TestClientGone:
    def test_the_generators_finally_runs(self) -> None:
        ended = threading.Event()

        def parts() -> Iterator[bytes]:
            try:
                while True:
                    yield b"x"
            finally:
                ended.set()

        outlet = Outlet(stalls=True)
        cycle = make_cycle(answering(parts()), outlet)
        thread = threading.Thread(target=serve, args=(cycle,))
        thread.start()
        eventually(lambda: len(outlet.parts) == 1)
        cycle.lose_client()
        assert ended.wait(TIMEOUT)
        thread.join(TIMEOUT)
        assert outlet.finished == 1

    def test_empty_parts_do_not_hide_it(self) -> None:
        body = Body(*[b""] * 1000)
        cycle = make_cycle(answering(body), Outlet())

        def parts() -> Iterator[bytes]:
            yield b""
            cycle.lose_client()
            yield from body

        cycle._application = answering(parts())
        serve(cycle)
        assert body.produced == 1

    def test_a_request_that_was_not_begun_is_dropped(self) -> None:
        called = []
        outlet = Outlet()
        cycle = make_cycle(lambda environ, start_response: called.append(1), outlet)  # type: ignore[arg-type,return-value]
        cycle.lose_client()
        serve(cycle)
        assert not called
        assert (outlet.finished, outlet.sent) == (1, b"")
        assert cycle.status == CLIENT_CLOSED_REQUEST

    def test_nothing_is_logged(self, errors: Callable[[], str]) -> None:
        outlet = Outlet()
        cycle = make_cycle(answering(iter([b"a"])), outlet)
        cycle.lose_client()
        serve(cycle)
        assert errors() == ""


class TestBackPressure:
    def test_the_deadline_is_about_the_next_part(self) -> None:
        deadlines = []
        outlet = Outlet()

        def parts() -> Iterator[bytes]:
            for _ in range(3):
                deadlines.append(cycle.deadline)
                yield b"x"

        cycle = make_cycle(answering(parts()), outlet, timeout=5.0)
        serve(cycle)
        assert sorted(set(deadlines)) == deadlines

    def test_the_next_part_waits_for_room(self) -> None:
        body = Body(*[b"x"] * 100)
        outlet = Outlet(stalls=True)
        cycle = make_cycle(answering(body), outlet)
        thread = threading.Thread(target=serve, args=(cycle,))
        thread.start()
        for sent in range(1, 5):
            # one is on its way, the next one is produced, and no more
            eventually(lambda ahead=sent + 1: body.produced == ahead)  # type: ignore[misc]
            assert len(outlet.parts) == sent
            cycle.make_room()
        cycle.lose_client()
        thread.join(TIMEOUT)
        assert outlet.finished == 1

    def test_the_last_bytes_wait_for_nothing(self) -> None:
        outlet = Outlet(stalls=True)
        serve(make_cycle(answering(iter([b"a"])), outlet))
        assert outlet.finished == 1

    def test_time_the_client_took_is_no_time_of_the_application(self) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            before = cycle.deadline
            cycle.hold_up()
            cycle.excuse(time.monotonic() + 5.0)
            cycle.excuse(time.monotonic() + 10.0)
            assert 9.9 < cycle.deadline - before < 11.0
            return answering([b"a"])(environ, start_response)  # type: ignore[return-value]

        outlet = Outlet()
        cycle = make_cycle(app, outlet, timeout=5.0)
        cycle.hold_up()  # it has not begun
        cycle.let_go_on()
        assert cycle.deadline == math.inf
        serve(cycle)
        assert outlet.status == 200


class TestDeadline:
    """The instant by which predict is to be done, and who moves it."""

    def test_it_counts_from_the_start(self) -> None:
        _, cycle = run(answering([b"a"]), timeout=5.0)
        assert cycle.started
        assert cycle.deadline == cycle.started + 5.0

    @pytest.mark.parametrize(
        ("timeout", "seconds", "moves"), [(5.0, 60.0, True), (60.0, 5.0, False)]
    )
    def test_predict_moves_it_only_later(self, timeout: float, seconds: float, moves: bool) -> None:
        seen = []

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            seen.append(cycle.deadline)
            environ["obworker.extend_deadline"](seconds)
            seen.append(cycle.deadline)
            return [b""]

        cycle = make_cycle(app, Outlet(), timeout=timeout)
        serve(cycle)
        assert (seen[1] > seen[0] + 50) is moves
        assert seen[1] >= seen[0]

    def test_no_limit_stays_none(self) -> None:
        monitor = Recorded()

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            environ["obworker.extend_deadline"](1.0)
            return [b""]

        cycle = make_cycle(app, Outlet(), monitor=monitor)
        serve(cycle)
        assert cycle.deadline == math.inf
        assert monitor.heard == ["begun", "ended"]

    def test_once_the_request_is_over_it_stays_where_it_is(self) -> None:
        kept = []

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            kept.append(environ["obworker.extend_deadline"])
            return [b""]

        monitor = Recorded()
        cycle = make_cycle(app, Outlet(), timeout=5.0, monitor=monitor)
        serve(cycle)
        before = cycle.deadline
        kept[0](60.0)
        assert cycle.deadline == before
        assert monitor.heard == ["begun", "ended"]

    def test_a_request_is_freed_without_a_garbage_collection(self) -> None:
        """The environ refers to the cycle, to move its deadline, and holds the whole body."""
        cycle = make_cycle(answering([b"a"]), Outlet())
        freed = weakref.ref(cycle)
        gc.disable()
        try:
            serve(cycle)
            del cycle
            assert freed() is None
        finally:
            gc.enable()

    def test_what_would_be_called_if_its_client_left_is_let_go_of(self) -> None:
        """A coroutine's task has a context that refers to the cycle: of each request that was
        awaited all was left for a garbage collection."""

        class Call:
            def __call__(self) -> None:
                raise AssertionError

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            call = Call()
            calls.append(weakref.ref(call))
            environ["obworker.on_lost"](call)
            return answering([b"a"])(environ, start_response)

        calls: list[weakref.ref[Call]] = []
        cycle = make_cycle(app, Outlet())
        serve(cycle)
        assert calls[0]() is None
        cycle.lose_client()


class Recorded:
    """A monitor that writes down what it hears of one cycle."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def begun(self, cycle: Cycle) -> None:
        assert cycle.started
        self.heard.append("begun")

    def extended(self, cycle: Cycle) -> None:
        self.heard.append("extended")

    def ended(self, cycle: Cycle) -> None:
        self.heard.append("ended")

    def beat(self, now: float, tally: Tally) -> None:
        raise AssertionError("a cycle keeps no time")


class TestMonitor:
    """What its owner hears of a request."""

    def heard(self, app: Application) -> list[str]:
        monitor = Recorded()
        serve(make_cycle(app, Outlet(), timeout=5.0, monitor=monitor))
        return monitor.heard

    def test_an_answer(self) -> None:
        assert self.heard(answering([b"a"])) == ["begun", "ended"]

    def test_a_stream(self) -> None:
        parts = iter([b"a", b"b", b"c"])
        assert self.heard(answering(parts)) == ["begun", *["extended"] * 3, "ended"]

    def test_a_failure(self) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            raise ValueError

        assert self.heard(app) == ["begun", "ended"]

    def test_nothing_of_what_was_dropped_before_it_began(self) -> None:
        monitor = Recorded()
        cycle = make_cycle(answering([b"a"]), Outlet(), monitor=monitor)
        cycle.lose_client()
        serve(cycle)
        assert monitor.heard == []

    def test_the_end_only_once_where_it_was_given_up(self) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            cycle.leave_predict()
            return [b"late"]

        monitor = Recorded()
        cycle = make_cycle(app, Outlet(), monitor=monitor)
        serve(cycle)
        assert monitor.heard == ["begun", "ended"]

    def test_when_it_left_predict(self) -> None:
        _, cycle = run(answering([b"x"]))
        assert cycle.started is not None
        assert cycle.ended is not None
        assert cycle.received <= cycle.started <= cycle.ended


class TestFields:
    """What the server adds to every response."""

    def test_they_are_added(self) -> None:
        outlet, _ = run(answering([b"x"]), response_fields=[("X-A", "1"), ("Vary", "Origin")])
        assert {"X-A: 1", "Vary: Origin"} <= set(outlet.head)

    def test_to_a_stream_too(self) -> None:
        outlet, _ = run(answering(iter([b"x", b"y"])), response_fields=[("X-A", "1")])
        assert "X-A: 1" in outlet.head

    def test_and_to_an_error(self, errors: Callable[[], str]) -> None:
        outlet, _ = run(answering([b"x"], ("bad name", "")), response_fields=[("X-A", "1")])
        assert outlet.status == 500
        assert "X-A: 1" in outlet.head

    def test_what_the_application_says_counts(self) -> None:
        outlet, _ = run(answering([b"x"], ("x-a", "mine")), response_fields=[("X-A", "1")])
        assert [line for line in outlet.head if line.lower().startswith("x-a")] == ["x-a: mine"]

    def test_but_what_it_varies_by_adds_up(self) -> None:
        """RFC 9110 12.5.5."""
        app = answering([b"x"], ("Vary", "Accept"))
        outlet, _ = run(app, response_fields=[("Vary", "Origin")])
        assert {"Vary: Accept", "Vary: Origin"} <= set(outlet.head)

    def test_what_is_logged_belongs_to_the_request(self, caplog: pytest.LogCaptureFixture) -> None:
        ids: list[str] = []

        class Noting(logging.Filter):
            def filter(self, record: logging.LogRecord) -> bool:
                ids.append(request_context.request_id())
                return True

        noting = Noting()
        caplog.handler.addFilter(noting)
        run(answering(Body(error=ValueError())), request_id="r-1")
        caplog.handler.removeFilter(noting)
        assert ids == ["r-1"]
