"""Bytes of a connection → answers, no more of them than were asked for (RFC 9112)."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple


class Cut(ConnectionError):
    """The connection ended before the answer did."""


class Head(NamedTuple):
    """The first part of an answer; names of fields are in lower case."""

    status: int
    fields: dict[str, str]


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether no other follows over the connection."""
        return self.fields.get("connection", "").lower() == "close"


def read_head(stream: BinaryIO) -> Head:
    """Read a status line and the fields.

    Raises:
        Cut: the connection ended.
    """
    _, status, *_ = _line(stream).split(" ", 2)
    fields = {}
    while line := _line(stream):
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return Head(int(status), fields)


def read_body(stream: BinaryIO, head: Head) -> Answer:
    """Read what follows a head.

    Raises:
        Cut: the connection ended.
    """
    is_chunked = head.fields.get("transfer-encoding") == "chunked"
    length = int(head.fields.get("content-length", 0))
    return Answer(*head, _chunks(stream) if is_chunked else _exactly(stream, length))


def _chunks(stream: BinaryIO) -> bytes:
    parts = []
    while size := int(_line(stream), 16):
        parts.append(_exactly(stream, size))
        _line(stream)
    _line(stream)
    return b"".join(parts)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise Cut(f"the connection ended after {len(found)} of {size} bytes")
    return found


def _line(stream: BinaryIO) -> str:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise Cut(f"the connection ended after {line!r}")
    return line[:-2].decode("latin-1")
