"""The entries of the corpus, and functions that make raw requests."""

from __future__ import annotations

from typing import NamedTuple

HOST = b"Host: a"
CHUNKED = b"Transfer-Encoding: chunked"


class Found(NamedTuple):
    """A request that a server must find in the bytes."""

    method: str = "GET"
    target: bytes = b"/"
    body: bytes = b""
    version: str = "1.1"


class Entry(NamedTuple):
    """The bytes of a connection, the requests in them, and the status of the error that ends it."""

    name: str
    section: str
    raw: bytes
    found: tuple[Found, ...] = ()
    refusal: int | None = None


def head(request_line: bytes, *fields: bytes) -> bytes:
    """Return a head, with the right ends of its lines."""
    return b"\r\n".join([request_line, *fields, b"", b""])


def get(*fields: bytes, target: bytes = b"/", host: bytes = HOST) -> bytes:
    return head(b"GET " + target + b" HTTP/1.1", host, *fields)


def post(body: bytes, *fields: bytes) -> bytes:
    return head(b"POST / HTTP/1.1", HOST, *fields) + body


def length(value: bytes | int) -> bytes:
    return b"Content-Length: " + (b"%d" % value if isinstance(value, int) else value)


def coding(value: bytes) -> bytes:
    return b"Transfer-Encoding: " + value


def chunks(body: bytes) -> bytes:
    """Return a chunked POST; the body is given with its chunk headers."""
    return post(body, CHUNKED)
