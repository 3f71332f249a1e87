"""Limits to the byte, memory, and what a parser tells; test_corpus.py has the grammar."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from wire import forget_heads

from obworker.errors import RequestError
from obworker.http.environ import base_environ, make_environ
from obworker.http.parser import Limits, Request, RequestParser

CONTINUE = "100"
HOST = b"Host: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CL, TE = b"Content-Length: ", b"Transfer-Encoding: "
AFTER = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n"


class Collector:
    """What a parser found, in order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.events: list[str] = []

    def request_received(self, request: Request) -> None:
        self.requests.append(request)
        self.events.append(f"{request.head.line} {request.body!r} {request.head.fields}")

    def continue_expected(self) -> None:
        self.events.append(CONTINUE)


Outcome = tuple[list[str], int | None]


def parse(pieces: Iterable[bytes], limits: Limits | None = None) -> tuple[Collector, int | None]:
    collector = Collector()
    parser = RequestParser(limits or Limits(), collector)
    try:
        for piece in pieces:
            parser.feed(piece)
    except RequestError as error:
        return collector, error.status
    return collector, None


def outcome(pieces: Iterable[bytes], limits: Limits | None = None) -> Outcome:
    collector, status = parse(pieces, limits)
    return collector.events, status


def singly(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def one(raw: bytes, limits: Limits | None = None) -> Request:
    """Parse what is one request and no more."""
    collector, status = parse([raw], limits)
    assert status is None
    (request,) = collector.requests
    return request


def one_singly(raw: bytes) -> Request:
    collector, status = parse(singly(raw))
    assert status is None
    (request,) = collector.requests
    return request


def get(target: bytes, *fields: bytes, host: bytes = b"a", version: bytes = b"1.1") -> bytes:
    lines = [b"GET " + target + b" HTTP/" + version, b"Host: " + host, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *fields]) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "raw", [get(b"/"), post(b"abc", b"Content-Length: 3"), CHUNKED + b"0\r\n\r\n"]
)
def test_an_unfinished_request_is_neither_received_nor_refused(raw: bytes) -> None:
    for at in range(len(raw)):
        assert outcome([raw[:at]]) == ([], None)


class TestLimits:
    """Each limit holds to the byte: one below, at, one over."""

    CUTS = pytest.mark.parametrize("cut", [lambda raw: [raw], singly], ids=["whole", "singly"])

    @CUTS
    @pytest.mark.parametrize("target", [b"/", b"/?", b"http://a/"])
    @pytest.mark.parametrize(("size", "status"), [(49, None), (50, None), (51, 414)])
    def test_request_line(self, cut, target, size, status) -> None:  # type: ignore[no-untyped-def]
        line = b"GET " + target + b"x" * (size - len(b"GET  HTTP/1.1") - len(target)) + b" HTTP/1.1"
        assert len(line) == size
        collector, refused = parse(cut(line + b"\r\n" + HOST + b"\r\n"), Limits(line=50))
        assert refused == status
        assert len(collector.requests) == (status is None)

    @CUTS
    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("limit", [60, 8190])
    @pytest.mark.parametrize(("over", "status"), [(-1, None), (0, None), (1, 431)])
    def test_header_field(self, cut, first, limit, over, status) -> None:  # type: ignore[no-untyped-def]
        field = b"X-Long: " + b"x" * (limit + over - len("X-Long: ")) + b"\r\n"
        fields = field + HOST if first else HOST + field
        raw = b"GET / HTTP/1.1\r\n" + fields + b"\r\n"
        collector, refused = parse(cut(raw), Limits(line=60, field=limit))
        assert refused == status
        assert len(collector.requests) == (status is None)

    @CUTS
    @pytest.mark.parametrize(("count", "status"), [(9, None), (10, None), (11, 431)])
    def test_number_of_fields(self, cut, count, status) -> None:  # type: ignore[no-untyped-def]
        raw = b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * (count - 1) + b"\r\n"
        assert parse(cut(raw), Limits(fields=10))[1] == status

    @CUTS
    @pytest.mark.parametrize(("count", "status"), [(9, None), (10, None), (11, 431)])
    def test_trailers_count_as_fields(self, cut, count, status) -> None:  # type: ignore[no-untyped-def]
        raw = CHUNKED + b"0\r\n" + b"X: y\r\n" * (count - 2) + b"\r\n"
        assert parse(cut(raw), Limits(fields=10))[1] == status

    @CUTS
    def test_fields_are_counted_anew_for_each_request(self, cut) -> None:  # type: ignore[no-untyped-def]
        raw = get(b"/", b"X: y", b"Y: z") * 3
        assert parse(cut(raw), Limits(fields=3))[1] is None

    @CUTS
    @pytest.mark.parametrize(("size", "status"), [(9, None), (10, None), (11, 413)])
    def test_length_of_body(self, cut, size, status) -> None:  # type: ignore[no-untyped-def]
        raw = post(b"x" * size, b"Content-Length: %d" % size)
        assert parse(cut(raw), Limits(body=10))[1] == status

    @CUTS
    @pytest.mark.parametrize(("size", "status"), [(9, None), (10, None), (11, 413)])
    def test_chunks_of_body(self, cut, size, status) -> None:  # type: ignore[no-untyped-def]
        raw = CHUNKED + b"1\r\nx\r\n" * size + b"0\r\n\r\n"
        assert parse(cut(raw), Limits(body=10))[1] == status

    def test_a_body_too_large_is_refused_before_it_comes(self) -> None:
        header = post(b"", b"Expect: 100-continue", b"Content-Length: 11")
        assert outcome([header], Limits(body=10)) == ([], 413)

    def test_a_large_body_after_its_header_is_no_long_line(self) -> None:
        header = post(b"", b"Content-Length: 40000")
        collector, status = parse([header, b"x" * 20000, b"x" * 20000, AFTER])
        assert status is None
        assert [len(request.body) for request in collector.requests] == [40000, 0]


ENDLESS = {
    "request line": (b"GET /", b"a", 414),
    "method": (b"", b"G", 414),
    "header name": (b"GET / HTTP/1.1\r\n", b"a", 431),
    "header value": (b"GET / HTTP/1.1\r\nX: ", b"a", 431),
    "white space before a value": (b"GET / HTTP/1.1\r\nX:", b" ", 431),
    "empty lines before a request": (b"", b"\r\n", 400),
    "empty lines after a request": (get(b"/"), b"\r\n", 400),
    "trailer name": (CHUNKED + b"0\r\n", b"a", 431),
    "trailer value": (CHUNKED + b"0\r\nX: ", b"a", 431),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n", 431),
    "headers": (b"GET / HTTP/1.1\r\n", b"X: y\r\n", 431),
    "chunk extension": (CHUNKED + b"1;", b"a", 413),
    "chunk extensions": (CHUNKED, b"1;" + b"a" * 33 + b"\r\na\r\n", 413),
    "chunk size": (CHUNKED, b"0", 413),
}


@pytest.mark.parametrize("size", [1, 1000, 65536], ids="pieces of {}".format)
@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_refused_before_it_fills_memory(name: str, size: int) -> None:
    start, unit, status = ENDLESS[name]
    limits = Limits()
    fed = 0

    def pieces() -> Iterator[bytes]:
        nonlocal fed
        yield start
        piece = (unit * size)[: max(size, len(unit))]
        while True:
            fed += len(piece)
            yield piece

    assert parse(pieces(), limits)[1] == status
    assert fed <= limits.field + 2 * max(size, 100)


def test_tiny_chunks_cost_no_more_memory_than_their_body() -> None:
    """A list of their parts would take 20 times as much."""
    parser = RequestParser(Limits(), Collector())
    parser.feed(CHUNKED)
    piece = b"2\r\nab\r\n" * 10000
    tracemalloc.start()
    try:
        for _ in range(3):
            parser.feed(piece)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 60000


# What makes a careless pattern try every way to divide a run of characters.
EVIL = {
    "spaces before a value": (get(b"/", b"X:" + b" " * 8100 + b"\0"), 400),
    "spaces in a value": (get(b"/", b"X: " + b"a " * 4000 + b"\0"), 400),
    "name": (get(b"/", b"x" * 8100), 400),
    "name of Host": (get(b"/", host=b"a" * 8000 + b"/"), 400),
    "percent-encoded Host": (get(b"/", host=b"%41" * 2700 + b"/"), 400),
    "address of Host": (get(b"/", host=b"[" + b":" * 8000), 400),
    "absolute target": (get(b"http://a" + b"/" * 8000 + b"\x7f"), 400),
    "request line": (b"GET " + b"/ " * 4000 + b"\r\n", 400),
    "codings": (post(b"", TE + b"a," * 4000 + b"chunked"), 501),
    "extensions": (CHUNKED + b"1" + b";a" * 2000 + b"=\r\n", 400),
    "quoted extension": (CHUNKED + b'1;a="' + b"\\\\" * 2000 + b"\r\n", 400),
}


@pytest.mark.parametrize("name", EVIL)
def test_no_line_takes_long(name: str) -> None:
    """Each takes less than a millisecond; in the square of its length it took 300."""
    raw, status = EVIL[name]
    started = time.process_time()
    assert outcome([raw]) == ([], status)
    assert time.process_time() - started < 0.1


def test_a_cut_head_is_not_read_again_with_each_byte() -> None:
    """Bytes that were kept and read again with each new one would come to 50 GB."""
    raw = get(b"/", *[b"X: " + b"y" * 8000] * 40)
    started = time.process_time()
    assert one_singly(raw).head.method == "GET"
    assert time.process_time() - started < 8


@pytest.mark.parametrize("first", [b"\x16", b"\0", b"\n", b" ", b"g", b"\r\nx"])
def test_what_cannot_become_a_request_is_refused_at_once(first: bytes) -> None:
    """TLS to a port that has none need not wait for a time limit."""
    assert outcome([first]) == ([], 400)


def test_extensions_are_counted_anew_for_each_request() -> None:
    raw = CHUNKED + b"1;" + b"a" * 4095 + b"\r\na\r\n0\r\n\r\n"
    assert len(outcome([raw * 3])[0]) == 3


def test_a_chunk_that_is_too_large_is_refused_before_it_comes() -> None:
    assert outcome([CHUNKED + b"1\r\na\r\na\r\n"], Limits(body=10)) == ([], 413)


def test_a_field_that_came_several_times_counts_as_one_list() -> None:
    """RFC 9110 5.3."""
    raw = get(b"/", b"Connection: keep-alive", b"X: y", b"Connection: close")
    assert one(raw).head.keep_alive is False


class TestExpect:
    """RFC 9110 10.1.1."""

    HEADER = post(b"", b"Expect: 100-Continue", b"Content-Length: 3")

    def test_the_receiver_learns_of_it_when_the_header_is_there(self) -> None:
        assert outcome([self.HEADER]) == ([CONTINUE], None)

    def test_and_gets_the_request_when_the_body_is(self) -> None:
        events, status = outcome(singly(self.HEADER + b"abc"))
        assert status is None
        assert events[0] == CONTINUE
        assert "b'abc'" in events[1]

    @pytest.mark.parametrize(("length", "told"), [(b"0", []), (b"1", [CONTINUE])])
    def test_who_sends_nothing_waits_for_nothing(self, length: bytes, told: list[str]) -> None:
        events, _ = outcome([post(b"", b"Expect: 100-continue", CL + length)])
        assert [event for event in events if event == CONTINUE] == told

    def test_it_is_refused_before_leave_to_send_the_body_is_given(self) -> None:
        assert outcome([post(b"", b"Expect: 100-continue", b"Host: b")]) == ([], 400)


class TestKeepAlive:
    """RFC 9112 9.3."""

    @pytest.mark.parametrize(
        ("version", "connection", "keeps"),
        [
            (b"1.1", b"", True),
            (b"1.1", b"Connection: close", False),
            (b"1.1", b"Connection: Close, x", False),
            (b"1.1", b"Connection: keep-alive", True),
            (b"1.0", b"", False),
            (b"1.0", b"Connection: keep-alive", True),
            (b"1.0", b"Connection: Keep-Alive", True),
            (b"1.0", b"Connection: close", False),
        ],
    )
    def test_persistence(self, version: bytes, connection: bytes, keeps: bool) -> None:
        fields = [connection] if connection else []
        assert one(get(b"/", *fields, version=version)).head.keep_alive is keeps

    def test_an_upgrade_changes_neither_version_nor_persistence(self) -> None:
        raw = b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
        head = one(raw).head
        assert (head.version, head.keep_alive) == ("1.0", False)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a/b?c=d", b"/a/b", b"c=d"),
        (b"/a?", b"/a", b""),
        (b"http://a", b"/", b""),
        (b"http://a?q", b"/", b"q"),
        (b"http://a/b?c?d", b"/b", b"c?d"),
    ],
)
def test_target_is_split_into_path_and_query(target: bytes, path: bytes, query: bytes) -> None:
    head = one(get(target)).head
    assert (head.path, head.query) == (path, query)


def test_after_the_last_request_nothing_is_kept_of_what_comes() -> None:
    collector = Collector()
    parser = RequestParser(Limits(), collector)
    parser.feed(get(b"/", b"Connection: close"))
    tracemalloc.start()
    try:
        for _ in range(100):
            parser.feed(bytes(65536))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(collector.requests), kept < 65536) == (1, True)


def test_trailers_appear_nowhere() -> None:
    raw = CHUNKED + b"1\r\na\r\n0\r\nX-Evil: 1\r\n\r\n" + AFTER
    collector, _ = parse([raw])
    base = base_environ("", "")
    environs = [make_environ(base, request) for request in collector.requests]
    assert ["HTTP_X_EVIL" in environ for environ in environs] == [False, False]


def kept_of(*fields: bytes) -> int:
    """Return how many bytes are held when 1000 heads, each with a number in a field, are done."""
    forget_heads()
    tracemalloc.start()
    try:
        for number in range(1000):
            one(get(b"/", *(field % number for field in fields)))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return kept


@pytest.mark.parametrize(
    "name", [b"Authorization: ", b"X-API-Key: ", b"x-api-key:", b"Cookie:", b"Proxy-Authorization:"]
)
def test_what_a_client_keeps_secret_is_not_remembered(name: bytes) -> None:
    assert kept_of(name + b"s3cret" * 100 + b"%d") < 20_000


def test_heads_that_are_remembered_are_bounded() -> None:
    assert kept_of(b"X: " + b"y" * 1000 + b"%d") < 3_000_000
    assert kept_of(b"X: " + b"y" * 5000 + b"%d") < 3_000_000
