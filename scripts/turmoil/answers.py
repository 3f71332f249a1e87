"""Reads responses from a connection, one for each request (RFC 9112)."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple


class Cut(ConnectionError):
    """The connection ended in the middle of a response."""


class Head(NamedTuple):
    """The status and header section of a response; the field names are in lower case."""

    status: int
    fields: dict[str, str]


class Answer(NamedTuple):
    """A complete response."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether the server closes the connection after this response."""
        return self.fields.get("connection", "").lower() == "close"


def read_head(stream: BinaryIO) -> Head:
    """Read a status line and the header section.

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
    """Read the body that belongs to a head, and return the complete response.

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
