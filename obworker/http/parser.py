"""Bytes in, whole requests out: the message syntax of RFC 9112, strict, and our limits.

Theory of operation. Almost every head arrives in one piece, is valid, and mostly came before, so it
is parsed whole. Any other head (cut, large or invalid) is read line by line. Errors are found on
this slow path only, so they do not depend on how the network cuts the bytes: a line is judged when
its LF has arrived, its length as soon as it is too long. Only the incomplete line is kept.

llhttp is not strict enough: it accepts bare LF and CR between requests, several spaces in a request
line, ``GET / RTSP/1.0`` and long extensions on every chunk, and its callbacks do not show them.
Also, a callback for each field costs more than looking up a cached line. The tests compare both.

A parser belongs to one connection, is fed from one thread and never touches a socket. After it
raised, it is not fed again.
"""

from __future__ import annotations

import enum
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from obworker.errors import BadRequest, ContentTooLarge, HeadersTooLarge, RequestError, UriTooLong
from obworker.http.chunks import (
    DIGITS,
    EXTENSIONS,
    PLAIN_CHUNK_SIZE,
    check_trailer,
    read_chunk_size,
)
from obworker.http.head import (
    CRLF,
    HEAD_END,
    Field,
    Head,
    RequestLine,
    read_field,
    read_head,
    read_request_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from obworker.http.spool import Spool
    from obworker.settings import Settings

    BodyFor = Callable[[int], io.BytesIO | Spool]
    NeedsBody = Callable[[Head], bool]

# RFC 9112 2.2: empty lines that may come before a request.
EMPTY_LINES = 8
# A body that is not needed is read and dropped up to this length, so that the connection can go on.
MOST_DROPPED = 64 << 10


@dataclass(frozen=True)
class Limits:
    """Limits on the parts of a request, in bytes; `fields` is a number."""

    line: int = 8190
    fields: int = 100
    field: int = 8190
    body: int = 100 << 20

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Take the limits from the settings."""
        return cls(
            line=settings.limit_request_line,
            fields=settings.limit_request_fields,
            field=settings.limit_request_field_size,
            body=settings.limit_request_body,
        )


class Request:
    """One request with its whole body, which is not chunked any more."""

    __slots__ = ("body", "head")

    def __init__(self, head: Head, body: bytes | Spool) -> None:
        self.head = head
        self.body = body

    def open_body(self) -> io.BytesIO:
        """Return a file of the body, which is not kept here."""
        body = self.body if isinstance(self.body, bytes) else self.body.read()
        self.body = b""
        return io.BytesIO(body)


class Receiver(Protocol):
    """What a parser calls."""

    def request_received(self, request: Request) -> None:
        """Take a whole request."""

    def continue_expected(self) -> None:
        """Note that the client waits for 100 Continue before it sends the body."""


class Line(enum.Enum):
    """What the next line has to be."""

    REQUEST = enum.auto()
    FIELD = enum.auto()
    CHUNK_SIZE = enum.auto()
    CHUNK_END = enum.auto()
    TRAILER = enum.auto()


class RequestParser:
    """Feed it bytes; it calls `receiver` with each whole request, in order.

    A body of known length that arrives in parts is collected in what `body_for` returns. If
    `needs_body` is false for a head, the request is complete without its body, which is then
    dropped. If the body is long or its length is unknown, nothing more is read instead, and the
    head passed on says that the connection ends.

    `has_begun` says whether a request is being received, `in_body` whether its body is, even if
    dropped; `head` is the head of a request whose body is incomplete. `room` is how many more
    requests may be completed. At 0 the rest is kept; after raising it, call `feed` again, if only
    with b"".
    """

    room: float = math.inf

    def __init__(
        self,
        limits: Limits,
        receiver: Receiver,
        body_for: BodyFor = lambda _length: io.BytesIO(),
        needs_body: NeedsBody = lambda _head: True,
    ) -> None:
        self.has_begun = self.in_body = False
        self.head: Head | None = None
        self._limits = limits
        self._receiver = receiver
        self._body_for = body_for
        self._needs_body = needs_body
        self._most_at_once = min(limits.body, MOST_DROPPED)
        self._closed = False
        self._line = Line.REQUEST
        self._shortest_limit = min(limits.line, limits.field)
        self._cut_line = b""
        self._empty_lines = 0
        # about the request being received; if `head` is None its body is dropped
        self._request_line: RequestLine | None = None
        self._fields: list[Field] = []
        self._missing = 0
        self._body: io.BytesIO | Spool | None = None
        self._extensions = 0
        self._trailers = 0

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the connection.

        What follows the last request, after ``Connection: close``, is ignored (RFC 9112 9.6).

        Raises:
            RequestError: this is no acceptable request; answer it with the status of the error.
        """
        if self._cut_line:
            chunk, self._cut_line = self._cut_line + chunk, b""
        at, end = 0, len(chunk)
        while at < end and not self._closed:
            if not self.room:
                self._cut_line = chunk[at:]
                return
            if self._missing:
                at = self._read_body(chunk, at)
            elif not self.has_begun:
                at = self._begin(chunk, at)
            elif self._line is Line.CHUNK_SIZE:
                at = self._read_chunks(chunk, at)
            else:
                at = self._read_line(chunk, at)

    def take_body(self, body: bytes | Spool) -> None:
        """Take the whole body of the head that was fed before."""
        self._missing = 0
        self._end_body(body)

    def retire(self) -> None:
        """Free the receiver and what has arrived of a body; the parser is not fed again."""
        del self._receiver
        self._body, self._cut_line = None, b""

    # Each of these parses something at `at`, and returns where it ends.

    def _begin(self, data: bytes, at: int) -> int:
        """Parse a whole head, with its body if that is there, too; or begin line by line."""
        end = data.find(HEAD_END, at)
        if not at < end <= at + self._shortest_limit:
            return self._begin_slowly(data, at)
        start = end + len(HEAD_END)
        try:
            head = read_head(data[at:start])
        except RequestError:  # this may not be the first error
            return self._begin_slowly(data, at)
        if len(head.fields) > self._limits.fields:
            return self._begin_slowly(data, at)
        size, here = head.length, len(data) - start
        if size is None or size > here or size > self._most_at_once or head.expects_continue:
            self._await_body(head)
            return start
        end = start + size
        self._complete(head, data[start:end])
        return end

    def _begin_slowly(self, data: bytes, at: int) -> int:
        first = data[at : at + 1]
        if first == b"\r":
            return self._skip_empty_line(data, at)
        if not first.isupper():  # TLS, for example, which may not contain an LF for long
            raise BadRequest("a request begins with a method")
        self.has_begun = True
        self._fields = []
        self._line = Line.REQUEST
        return self._read_line(data, at)

    def _skip_empty_line(self, data: bytes, at: int) -> int:
        line = data[at : at + 2]
        if line == b"\r":
            self._cut_line = line
        elif line != b"\r\n" or self._empty_lines == EMPTY_LINES:
            raise BadRequest("a request begins with a method")
        else:
            self._empty_lines += 1
        return at + len(line)

    def _read_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at) + 1
        if not end:
            self._cut_line = data[at:]
            self._check_length(len(self._cut_line.removesuffix(b"\r")))
            return len(data)
        line = data[at : end - 1]
        self._check_length(len(line.removesuffix(b"\r")))
        if not line.endswith(b"\r"):  # RFC 9112 2.2
            raise BadRequest("a line ends without CR")
        self._take(line[:-1])
        return end

    def _read_chunks(self, data: bytes, at: int) -> int:
        """Read whole chunks without extensions, then the line that follows them."""
        chunks = self._body
        assert chunks is not None
        while match := PLAIN_CHUNK_SIZE.match(data, at):
            start = match.end()
            end = start + int(match[1], 16)
            room = self._limits.body - chunks.tell()
            if end == start or end - start > room or data[end : end + 2] != CRLF:
                break
            chunks.write(data[start:end])
            at = end + len(CRLF)
        return self._read_line(data, at) if at < len(data) else at

    def _read_body(self, data: bytes, at: int) -> int:
        """Read what has arrived of a body or of a chunk."""
        part = data[at : at + self._missing]
        self._missing -= len(part)
        if self._body is None and not self._missing:
            self._end_body(part)
        elif self.head is not None:
            self._collect(part)
        return at + len(part)

    def _collect(self, part: bytes) -> None:
        if self._body is None:
            assert self.head is not None
            assert self.head.length is not None
            self._body = self._body_for(self.head.length)
        self._body.write(part)
        if not self._missing and self._line is not Line.CHUNK_END:
            self._end_collected()

    def _check_length(self, length: int) -> None:
        """Refuse a line that is too long, given its length without the line end."""
        limits = self._limits
        match self._line:
            case Line.REQUEST:
                if length > limits.line:
                    raise UriTooLong(f"the request line exceeds {limits.line} bytes")
            case Line.FIELD | Line.TRAILER:
                if length > limits.field:
                    raise HeadersTooLarge(f"a header exceeds {limits.field} bytes")
            case Line.CHUNK_SIZE:
                if length > DIGITS + EXTENSIONS - self._extensions:
                    raise ContentTooLarge(f"the chunk extensions exceed {EXTENSIONS} bytes")
            case Line.CHUNK_END:
                if length:
                    raise BadRequest("a chunk is longer than its size")

    def _take(self, line: bytes) -> None:
        match self._line:
            case Line.REQUEST:
                self._request_line = read_request_line(line)
                self._line = Line.FIELD
            case Line.FIELD if line:
                self._fields.append(self._take_field(line, len(self._fields)))
            case Line.FIELD:
                assert self._request_line is not None
                self._await_body(Head(self._request_line, self._fields))
            case Line.CHUNK_SIZE:
                self._begin_chunk(line)
            case Line.CHUNK_END:
                self._line = Line.CHUNK_SIZE
            case Line.TRAILER if line:
                self._drop_trailer(line)
            case Line.TRAILER:
                self._end_collected()

    def _take_field(self, line: bytes, before: int) -> Field:
        """Parse a field that follows `before` others."""
        if before >= self._limits.fields:
            raise HeadersTooLarge(f"there are over {self._limits.fields} headers")
        return read_field(line)

    def _drop_trailer(self, line: bytes) -> None:
        """Check a trailer and drop it: no predictor can ask for it."""
        assert self.head is not None
        name, _ = self._take_field(line, len(self.head.fields) + self._trailers)
        check_trailer(name)
        self._trailers += 1

    def _begin_chunk(self, line: bytes) -> None:
        self._missing, extensions = read_chunk_size(line)
        self._extensions += extensions
        assert self._body is not None
        self._check_size(self._body.tell() + self._missing)
        self._line = Line.CHUNK_END if self._missing else Line.TRAILER

    def _check_size(self, size: int) -> None:
        if size > self._limits.body:
            raise ContentTooLarge(f"the body exceeds {self._limits.body} bytes")

    def _await_body(self, head: Head) -> None:
        """Begin to read the body that follows a head."""
        self.head = head
        if head.length == 0:
            self._end_body(b"")
            return
        if not self._needs_body(head):
            self._do_without_body(head)
            return
        self.has_begun = self.in_body = True
        if head.length is None:
            self._line = Line.CHUNK_SIZE
            self._body = io.BytesIO()
            self._extensions = self._trailers = 0
        else:
            self._check_size(head.length)
            self._line = Line.REQUEST
            self._missing = head.length
        if head.expects_continue:
            self._receiver.continue_expected()

    def _do_without_body(self, head: Head) -> None:
        """Pass on a request that does not need its body.

        A client that waits for 100 Continue may still send the body, or another request instead
        (RFC 9110 10.1.1). Nobody can tell which, so nothing more is read.
        """
        self.head, self.has_begun = None, False
        if head.length is None or head.length > MOST_DROPPED or head.expects_continue:
            head = head.as_last()
        elif head.keep_alive:
            self._missing, self.in_body = head.length, True
        self._complete(head, b"")

    def _end_collected(self) -> None:
        body, self._body = self._body, None
        assert body is not None
        self._end_body(body.getvalue() if isinstance(body, io.BytesIO) else body)

    def _end_body(self, body: bytes | Spool) -> None:
        head, self.head = self.head, None
        self.has_begun = self.in_body = False
        if head is not None:
            self._complete(head, body)

    def _complete(self, head: Head, body: bytes | Spool) -> None:
        """Pass a whole request on."""
        self._empty_lines = 0
        self.room -= 1
        self._closed = not head.keep_alive
        self._receiver.request_received(Request(head, body))
