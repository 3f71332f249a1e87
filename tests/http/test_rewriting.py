"""What another worker reads of a request that moved is what was read of it here."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from corpus import CORPUS, Entry
from wire import Collector

from obworker.errors import RequestError
from obworker.http.head import Head
from obworker.http.parser import Limits, Request, RequestParser
from obworker.http.rewriting import OF_THE_TRANSFER, rewrite_head

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n"


def requests(raw: bytes) -> list[Request]:
    """Return those that are found, up to what is refused."""
    collector = Collector()
    with suppress(RequestError):
        RequestParser(Limits(), collector).feed(raw)
    return collector.requests


def moved(request: Request) -> tuple[list[tuple[Head, bytes]], tuple[Head, bytes]]:
    """Return all that the other worker finds, and what was here."""
    head, body = rewrite_head(request), request.open_body().read()
    there = [(found.head, found.open_body().read()) for found in requests(head + body)]
    return there, (request.head, body)


def meaning(head: Head) -> dict[str, Any]:
    """Return all that an application, a log or a connection is told of a head."""
    of_the_transfer = {"CONTENT_LENGTH", *(name.decode() for name in OF_THE_TRANSFER)}
    of_the_transfer |= {"HTTP_TRANSFER_ENCODING", "HTTP_EXPECT"}
    return {
        "line": (head.line, head.method, head.target, head.version, head.path, head.query),
        "goes on": head.keep_alive,
        "fields": [field for field in head.fields if field[0] not in OF_THE_TRANSFER],
        "environ": {k: v for k, v in head.variables.items() if k not in of_the_transfer},
    }


@pytest.mark.parametrize("entry", [e for e in CORPUS if e.found], ids=lambda entry: entry.name)
def test_of_the_corpus(entry: Entry) -> None:
    for request in requests(entry.raw):
        there, (head, body) = moved(request)
        assert [(meaning(h), b) for h, b in there] == [(meaning(head), body)]


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (CHUNKED, [b"content-length: 1"]),
        (POST + b"Content-Length: 1\r\n\r\na", [b"content-length: 1"]),
        (POST + b"Content-Length: 0\r\n\r\n", [b"content-length: 0"]),
        (POST + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\na", [b"content-length: 1"]),
        (POST + b"Expect: 100-continue\r\n\r\n", []),
        (POST + b"\r\n", []),
    ],
)
def test_a_body_is_framed_by_its_length_alone_and_nothing_waits(
    raw: bytes, fields: list[bytes]
) -> None:
    (request,) = requests(raw)
    first, host, *others = rewrite_head(request).removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert (first, host.replace(b" ", b"")) == (b"POST / HTTP/1.1", b"host:a")
    assert others == fields
