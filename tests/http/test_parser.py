"""Requests that are accepted, and requests that are refused, however the network cuts them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator

import pytest

from obworker.errors import RequestError
from obworker.http.environ import base_environ, make_environ
from obworker.http.parser import Limits, Request, RequestParser

CONTINUE = "100"
HOST = b"Host: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
CL, TE = b"Content-Length: ", b"Transfer-Encoding: "
AFTER = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n"


class Collector:
    """What a parser found, in order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.events: list[str] = []

    def request_received(self, request: Request) -> None:
        self.requests.append(request)
        self.events.append(f"{request.line} {request.body!r} {request.headers}")

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


def cuts(raw: bytes) -> Iterator[list[bytes]]:
    yield singly(raw)
    for at in range(1, len(raw)):
        yield [raw[:at], raw[at:]]


def one(raw: bytes, limits: Limits | None = None) -> Request:
    """Parse what is one request and no more."""
    collector, status = parse([raw], limits)
    assert status is None
    (request,) = collector.requests
    return request


def get(target: bytes, *fields: bytes, host: bytes = b"a", version: bytes = b"1.1") -> bytes:
    lines = [b"GET " + target + b" HTTP/" + version, b"Host: " + host, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *fields]) + b"\r\n\r\n" + body


# What is served: the section that allows it, the bytes, and (target, body) of each request.
VALID = {
    "9112 2.1 simple": (get(b"/"), [(b"/", b"")]),
    "9112 2.2 empty lines before": (b"\r\n\r\n" + get(b"/"), [(b"/", b"")]),
    "9112 2.3 version 1.0 without Host": (b"GET / HTTP/1.0\r\n\r\n", [(b"/", b"")]),
    "9112 3.2.1 query": (get(b"/a?b=c?d"), [(b"/a?b=c?d", b"")]),
    "9112 3.2.1 two slashes": (get(b"//a"), [(b"//a", b"")]),
    "9112 3.2.2 absolute": (get(b"http://a/x?y"), [(b"http://a/x?y", b"")]),
    "9112 3.2.2 absolute, other case": (get(b"HTTP://A"), [(b"HTTP://A", b"")]),
    "9112 3.2.2 absolute, https": (get(b"https://a:1/", host=b"a:1"), [(b"https://a:1/", b"")]),
    "9112 3.2.2 absolute, 1.0 without Host": (
        b"GET http://a/ HTTP/1.0\r\n\r\n", [(b"http://a/", b"")]),
    "9112 3.2.4 asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", [(b"*", b"")]),
    "9112 5 no space after colon": (b"GET / HTTP/1.1\r\nHost:a\r\n\r\n", [(b"/", b"")]),
    "9112 5 white space around value": (b"GET / HTTP/1.1\r\nHost: \t a \t\r\n\r\n", [(b"/", b"")]),
    "9112 6.2 length": (post(b"abc", CL + b"3"), [(b"/", b"abc")]),
    "9112 6.2 length of zero": (post(b"", CL + b"0"), [(b"/", b"")]),
    "9112 6.3 no length": (post(b""), [(b"/", b"")]),
    "9112 7.1 chunks": (CHUNKED + b"1\r\na\r\n02\r\nbc\r\n0\r\n\r\n", [(b"/", b"abc")]),
    "9112 7.1 no chunk": (CHUNKED + b"0\r\n\r\n", [(b"/", b"")]),
    "9112 7.1 size in either case": (CHUNKED + b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
                                     [(b"/", b"0123456789" * 2)]),
    "9112 7.1.1 extensions": (CHUNKED + b'1;a=b;c="d;\\"e"\r\na\r\n0\r\n\r\n', [(b"/", b"a")]),
    "9112 7 coding in any case": (post(b"0\r\n\r\n", TE + b"Chunked"), [(b"/", b"")]),
    "9112 9.3.2 pipelined": (get(b"/1") + post(b"ab", CL + b"2") + get(b"/3"),
                             [(b"/1", b""), (b"/", b"ab"), (b"/3", b"")]),
    "9112 9.6 bytes after close": (get(b"/", b"Connection: close") + b"\0\r\n", [(b"/", b"")]),
    "9112 9.6 request after close": (get(b"/", b"Connection: x, CLOSE") + AFTER, [(b"/", b"")]),
    "9112 9.3 bytes after 1.0": (b"GET / HTTP/1.0\r\n\r\n" + AFTER, [(b"/", b"")]),
    "9110 5.5 high bytes in a value": (get(b"/", b"X: \xe9"), [(b"/", b"")]),
    "9110 5.6.2 odd name": (get(b"/", b"!#$%&'*+.^_`|~: x"), [(b"/", b"")]),
    "9110 7.2 empty Host": (get(b"/", host=b""), [(b"/", b"")]),
    "9110 7.2 Host, IPv6 and port": (get(b"/", host=b"[::1]:80"), [(b"/", b"")]),
    "9110 9.1 odd method": (b"QUERY / HTTP/1.1\r\nHost: a\r\n\r\n", [(b"/", b"")]),
    "9110 7.8 Upgrade": (b"GET / HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n" + AFTER,
                         [(b"/", b""), (b"/after", b"")]),
    "9110 7.8 Upgrade, body": (post(b"abc" + AFTER, CL + b"3", UPGRADE[:-2]),
                               [(b"/", b"abc"), (b"/after", b"")]),
    "9110 7.8 Upgrade, chunks": (
        post(b"1\r\na\r\n0\r\nX: y\r\n\r\n" + AFTER, UPGRADE[:-2], TE + b"chunked"),
        [(b"/", b"a"), (b"/after", b"")]),
    "9110 7.8 Upgrade, body is a request": (
        post(AFTER + AFTER, b"Content-Length: %d" % len(AFTER), UPGRADE[:-2]),
        [(b"/", AFTER), (b"/after", b"")]),
    "9110 7.8 Upgrade twice": ((b"GET / HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n") * 2,
                               [(b"/", b""), (b"/", b"")]),
    "9110 7.8 Upgrade, close": (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: x\r\n\r\n" + AFTER,
        [(b"/", b"")]),
    "9110 7.8 Upgrade in 1.0": (b"GET / HTTP/1.0\r\n" + UPGRADE + b"\r\n" + AFTER, [(b"/", b"")]),
    "9110 6.5 trailers": (CHUNKED + b"1\r\na\r\n0\r\nX-Sum: 1\r\nDigest: 2\r\n\r\n" + AFTER,
                          [(b"/", b"a"), (b"/after", b"")]),
    "9110 10.1.1 Expect in 1.0": (
        b"POST / HTTP/1.0\r\nExpect: x\r\nContent-Length: 1\r\n\r\na", [(b"/", b"a")]),
}  # fmt: skip

# What is refused: the section that asks for it, the bytes, and the status.
INVALID = {
    "9112 2.2 bare LF ends the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "9112 2.2 bare LF ends a field": (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "9112 2.2 bare LF ends the header": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "9112 2.2 bare CR in a value": (get(b"/", b"X: a\rb"), 400),
    "9112 2.2 white space before a field": (b"GET / HTTP/1.1\r\n X: a\r\n" + HOST + b"\r\n", 400),
    "9112 2.3 version 2.0": (get(b"/", version=b"2.0"), 505),
    "9112 2.3 version 0.9": (get(b"/", version=b"0.9"), 505),
    "9112 2.3 version 3.0": (get(b"/", version=b"3.0"), 400),
    "9112 2.3 version 1.10": (get(b"/", version=b"1.10"), 400),
    "9112 2.3 version in lower case": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "9112 2.3 no version": (b"GET /\r\n\r\n", 505),
    "9113 3.4 preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "9112 3 leading space": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "9112 3 tabs": (b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "9112 3 space after the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "9112 3.1 method in lower case": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "9112 3.1 unknown method": (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "9112 3.2 no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "9112 3.2 two Hosts": (get(b"/", b"Host: b"), 400),
    "9112 3.2 the same Host twice": (get(b"/", b"host: a"), 400),
    "9112 3.2 Host with a path": (get(b"/", host=b"a/b"), 400),
    "9112 3.2 Host with userinfo": (get(b"/", host=b"u@a"), 400),
    "9112 3.2 Host with a space": (get(b"/", host=b"a b"), 400),
    "9112 3.2 Host, high byte": (get(b"/", host=b"\xe9"), 400),
    "9112 3.2 space in target": (get(b"/a b"), 400),
    "9112 3.2 fragment in target": (get(b"/a#b"), 400),
    "9112 3.2 high byte in target": (get(b"/\xe9"), 400),
    "9112 3.2 DEL in target": (get(b"/\x7f"), 400),
    "9112 3.2 NUL in target": (get(b"/\0"), 400),
    "9112 3.2 relative target": (get(b"a"), 400),
    "9112 3.2.2 absolute, other Host": (get(b"http://b/"), 400),
    "9112 3.2.2 absolute, other scheme": (get(b"ftp://a/"), 400),
    "9112 3.2.2 absolute without host": (get(b"http:///a"), 400),
    "9110 4.2.4 absolute with userinfo": (get(b"http://u@a/"), 400),
    "9112 3.2.3 CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 400),
    "9112 3.2.3 CONNECT with a body": (
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\nx", 400),
    "9112 3.2.4 asterisk with GET": (get(b"*"), 400),
    "9112 5.1 space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "9112 5 no colon": (get(b"/", b"X"), 400),
    "9112 5 empty name": (get(b"/", b": x"), 400),
    "9112 5.2 obs-fold": (get(b"/", b"X: a\r\n b"), 400),
    "9112 5.2 obs-fold, tab": (get(b"/", b"X: a\r\n\tb"), 400),
    "9110 5.1 NUL in a name": (get(b"/", b"X\0: a"), 400),
    "9110 5.1 high byte in a name": (get(b"/", b"X\xe9: a"), 400),
    "9110 5.5 NUL in a value": (get(b"/", b"X: a\0"), 400),
    "9110 5.5 control character in a value": (get(b"/", b"X: \x01"), 400),
    "9110 8.3 two Content-Types": (get(b"/", b"Content-Type: a/b", b"content-type: c/d"), 400),
    "9110 8.6 two lengths": (post(b"a", CL + b"1", CL + b"2"), 400),
    "9110 8.6 the same length twice": (post(b"a", CL + b"1", CL + b"1"), 400),
    "9110 8.6 list of lengths": (post(b"a", CL + b"1, 1"), 400),
    "9110 8.6 signed length": (post(b"a", CL + b"+1"), 400),
    "9110 8.6 negative length": (post(b"a", CL + b"-1"), 400),
    "9110 8.6 hexadecimal length": (post(b"a", CL + b"0x1"), 400),
    "9110 8.6 length with underscore": (post(b"a", CL + b"1_0"), 400),
    "9110 8.6 empty length": (post(b"a", CL + b""), 400),
    "9110 8.6 length over 64 bits": (post(b"a", CL + b"99999999999999999999"), 400),
    "9112 6.1 coding in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "9112 6.1 coding and length": (post(b"0\r\n\r\n", TE + b"chunked", CL + b"5"), 400),
    "9112 6.1 length and coding": (post(b"0\r\n\r\n", CL + b"5", TE + b"chunked"), 400),
    "9112 6.1 unknown coding": (post(b"", TE + b"gzip"), 501),
    "9112 6.1 coding before chunked": (post(b"0\r\n\r\n", TE + b"gzip, chunked"), 501),
    "9112 6.1 no such coding": (post(b"", TE + b"identity"), 501),
    "9112 6.1 almost chunked": (post(b"", TE + b"xchunked"), 501),
    "9112 6.3 chunked is not the last": (post(b"0\r\n\r\n", TE + b"chunked, gzip"), 400),
    "9112 7 chunked twice": (post(b"", TE + b"chunked, chunked"), 400),
    "9112 7 two codings in two fields": (
        post(b"", TE + b"chunked", TE + b"chunked"), 400),
    "9112 6.1 vertical tab before chunked": (post(b"", TE + b"\x0bchunked"), 400),
    "9112 7.1 chunk without size": (CHUNKED + b"\r\na\r\n", 400),
    "9112 7.1 size is no number": (CHUNKED + b"x\r\na\r\n", 400),
    "9112 7.1 size with 0x": (CHUNKED + b"0x1\r\na\r\n", 400),
    "9112 7.1 negative size": (CHUNKED + b"-1\r\na\r\n", 400),
    "9112 7.1 size and a space": (CHUNKED + b"1 \r\na\r\n", 400),
    "9112 7.1 size over 64 bits": (CHUNKED + b"1" + b"0" * 16 + b"\r\n", 400),
    "9112 7.1 bare LF after the size": (CHUNKED + b"1\na\r\n", 400),
    "9112 7.1 bare LF after the data": (CHUNKED + b"1\r\na\n", 400),
    "9112 7.1 data longer than the size": (CHUNKED + b"1\r\nab\r\n", 400),
    "9112 7.1.1 bare LF in an extension": (CHUNKED + b"1;a\nb\r\na\r\n", 400),
    "9112 7.1.1 bare CR in an extension": (CHUNKED + b"1;a\rb\r\na\r\n", 400),
    "9110 6.5.1 trailer that routes": (CHUNKED + b"0\r\nHost: b\r\n\r\n", 400),
    "9110 6.5.1 trailer that authenticates": (CHUNKED + b"0\r\nAuthorization: b\r\n\r\n", 400),
    "9110 6.5.1 trailer that frames": (CHUNKED + b"0\r\nContent-Length: 1\r\n\r\n", 400),
    "9110 6.5.1 trailer with a coding": (
        CHUNKED + b"0\r\nX: 1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    "9110 6.5.1 trailer after Upgrade": (
        post(b"0\r\nCookie: a\r\n\r\n", TE + b"chunked", UPGRADE[:-2]), 400),
    "9110 7.8 Upgrade without Host": (b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n", 400),
    "9110 10.1.1 unknown expectation": (post(b"", b"Expect: a-miracle"), 417),
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_a_valid_request_is_received_however_it_is_cut(name: str) -> None:
    raw, expected = VALID[name]
    collector, status = parse([raw])
    assert status is None
    assert [(request.target, request.body) for request in collector.requests] == expected
    for pieces in cuts(raw):
        assert outcome(pieces) == (collector.events, None)


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_request_is_refused_however_it_is_cut(name: str) -> None:
    raw, status = INVALID[name]
    assert outcome([raw]) == ([], status)
    for pieces in cuts(raw):
        assert outcome(pieces) == ([], status)


@pytest.mark.parametrize("name", INVALID)
def test_what_came_before_an_invalid_request_is_received(name: str) -> None:
    raw, status = INVALID[name]
    collector, refused = parse([get(b"/first") + raw])
    assert [request.target for request in collector.requests] == [b"/first"]
    assert refused == status


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

    def test_a_body_that_asks_for_an_upgrade_is_limited_too(self) -> None:
        header = post(b"", b"Content-Length: 11", UPGRADE[:-2])
        assert outcome([header], Limits(body=10)) == ([], 413)

    def test_a_large_body_after_its_header_is_no_long_line(self) -> None:
        """It was: the last piece of a body looked like 20,000 bytes of the next header."""
        header = post(b"", b"Content-Length: 40000")
        collector, status = parse([header, b"x" * 20000, b"x" * 20000, AFTER])
        assert status is None
        assert [len(request.body) for request in collector.requests] == [40000, 0]


ENDLESS = {
    "request line": (b"GET /", b"a", 414),
    "method": (b"", b"G", 400),
    "header name": (b"GET / HTTP/1.1\r\n", b"a", 431),
    "header value": (b"GET / HTTP/1.1\r\nX: ", b"a", 431),
    "white space before a value": (b"GET / HTTP/1.1\r\nX:", b" ", 431),
    "empty lines before a request": (b"", b"\r\n", 431),
    "empty lines after a request": (get(b"/"), b"\r\n", 431),
    "trailer name": (CHUNKED + b"0\r\n", b"a", 431),
    "trailer value": (CHUNKED + b"0\r\nX: ", b"a", 431),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n", 431),
    "headers": (b"GET / HTTP/1.1\r\n", b"X: y\r\n", 431),
    "chunk extension": (CHUNKED + b"1;", b"a", 431),
    "chunk size": (CHUNKED, b"0", 431),
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
        for _ in range(10):
            parser.feed(piece)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 200000


def test_many_pipelined_upgrades_are_read_without_recursion() -> None:
    """3,000 nested calls were a RecursionError."""
    raw = (b"GET / HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n") * 3000
    collector, status = parse([raw])
    assert (len(collector.requests), status) == (3000, None)


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
        assert one(get(b"/", *fields, version=version)).keep_alive is keeps

    def test_an_upgrade_changes_neither_version_nor_persistence(self) -> None:
        raw = b"GET / HTTP/1.0\r\n" + UPGRADE + b"\r\n"
        request = one(raw)
        assert (request.version, request.keep_alive) == ("1.0", False)


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
    request = one(get(target))
    assert (request.path, request.query) == (path, query)


def test_after_the_last_request_nothing_is_kept_of_what_comes() -> None:
    collector = Collector()
    parser = RequestParser(Limits(), collector)
    parser.feed(get(b"/", b"Connection: close"))
    for _ in range(100):
        parser.feed(b"x" * 65536)
    assert len(collector.requests) == 1


def test_trailers_appear_nowhere() -> None:
    raw = CHUNKED + b"1\r\na\r\n0\r\nX-Evil: 1\r\n\r\n" + AFTER
    collector, _ = parse([raw])
    base = base_environ("", "")
    for request in collector.requests:
        assert "HTTP_X_EVIL" not in make_environ(base, request)
