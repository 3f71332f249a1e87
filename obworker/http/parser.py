"""Bytes in, whole requests out: llhttp's callbacks, our limits, and what llhttp lets through.

llhttp is strict about framing. It leaves to its user: every limit; a second Host or Content-Type;
absolute request targets; Transfer-Encoding in HTTP/1.0 and codings other than chunked; forbidden
trailers; ``*`` outside OPTIONS; versions other than 1.0 and 1.1. Those are refused here.

A parser belongs to one connection, is fed from one thread and never touches a socket. After it
raised, it is not fed again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import httptools

from obworker.errors import (
    BadRequest,
    ContentTooLarge,
    ExpectationFailed,
    HeadersTooLarge,
    HttpVersionNotSupported,
    NotImplementedCoding,
    RequestError,
    UriTooLong,
)

if TYPE_CHECKING:
    from obworker.settings import Settings

# RFC 9112 3.2: a request-target has no control character, space, non-ASCII byte or fragment.
TARGET = re.compile(rb"[!-\"$-~]+")
# RFC 3986 3.2: what an authority may consist of, without userinfo (RFC 9110 4.2.4).
HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
ABSOLUTE_FORM = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#@]+)(/[^?]*)?(\?.*)?")

# RFC 9110 5.3 and 9112 6.3: a second one of these makes a request mean two things.
SINGLETONS = frozenset((b"host", b"content-type", b"content-length", b"transfer-encoding"))
# RFC 9110 6.5.1: fields that frame, route or authenticate may not come after the body.
FORBIDDEN_TRAILERS = SINGLETONS | {
    b"authorization", b"connection", b"content-encoding", b"content-range", b"cookie", b"expect",
    b"keep-alive", b"proxy-authorization", b"te", b"trailer", b"upgrade",
}  # fmt: skip
# What may stand between two fields besides them: the version, line ends, white space.
SLACK = 64


@dataclass(frozen=True)
class Limits:
    """How large the parts of a request may be, in bytes; `fields` is a count."""

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
    """One request, its header names in lower case, its body whole."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query", "target", "version")

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.path = b""
        self.query = b""
        self.version = "1.1"
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.keep_alive = False

    @property
    def line(self) -> str:
        """The request line, as the logs show it."""
        return f"{self.method} {self.target.decode('latin-1')} HTTP/{self.version}"


class Receiver(Protocol):
    """What a parser tells its connection."""

    def request_received(self, request: Request) -> None:
        """Take a whole request."""

    def continue_expected(self) -> None:
        """Learn that the client waits for 100 Continue before it sends the body."""


class RequestParser:
    """Feed it bytes; it calls `receiver` with each whole request, in order.

    `request` is the one being received, or None between two. `in_body` says which part of it.
    """

    def __init__(self, limits: Limits, receiver: Receiver) -> None:
        self.request: Request | None = None
        self.in_body = False
        self._limits = limits
        self._receiver = receiver
        self._llhttp = httptools.HttpRequestParser(self)
        self._closed = False
        self._ignored_upgrade = False
        self._error: RequestError | None = None
        self._fields = 0
        self._body: bytes | bytearray = b""
        self._unfinished = 0
        self._progressed = False

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the connection.

        Raises:
            RequestError: the bytes are no acceptable request; its status is the answer.
        """
        self._progressed = False
        rest: bytes | memoryview = chunk
        while rest and not self._ended():
            rest = self._feed(rest)
        self._limit_unfinished_line(len(chunk))

    def _feed(self, chunk: bytes | memoryview) -> bytes | memoryview:
        """Parse up to the end of a request that asks for an upgrade; return what is after it."""
        try:
            self._llhttp.feed_data(chunk)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade()
            return memoryview(chunk)[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if not self._ended():
                raise self._error or BadRequest(f"malformed request: {error}") from error
        return b""

    def _ended(self) -> bool:
        """Whether the last request has come: what follows "Connection: close" is ignored.

        RFC 9112 9.6. A method, because feeding changes it.
        """
        return self._closed

    def _limit_unfinished_line(self, received: int) -> None:
        """Refuse a line that never ends before httptools has collected all of it.

        It may be a header, a trailer, a chunk's size, or the empty lines before a request.
        """
        if self._progressed or self._ended():
            self._unfinished = 0
            return
        self._unfinished += received
        limit = max(self._limits.line, self._limits.field)
        if self._unfinished > limit + SLACK:
            raise HeadersTooLarge(f"a line of the header is longer than {limit} bytes")

    def _ignore_upgrade(self) -> None:
        """Read the request again without its Upgrade, which a server may ignore (RFC 9110 7.8).

        llhttp ends such a message after its header, so a body would be taken for a request.
        """
        request = self.request
        if request is None or self._ignored_upgrade or request.method == "CONNECT":
            raise BadRequest("CONNECT is for proxies")
        start = (request.method.encode(), request.target, request.version.encode())
        lines = [b"%s %s HTTP/%s" % start]
        lines += [b"%s: %s" % field for field in request.headers if field[0] != b"upgrade"]
        self._ignored_upgrade = True
        self._llhttp = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n")

    # llhttp's callbacks. An exception ends the parsing: httptools wraps it, feed unwraps it.

    def _refuse(self, error: RequestError) -> RequestError:
        self._error = error
        return error

    def on_message_begin(self) -> None:
        """Start a new request."""
        self.request = Request()
        self.in_body = False
        self._fields = 0
        self._body = b""

    def on_url(self, part: bytes) -> None:
        """Collect the request target."""
        assert self.request is not None
        self._progressed = True
        self.request.target += part
        method = self._llhttp.get_method()
        if len(method) + len(self.request.target) + len("  HTTP/1.1") > self._limits.line:
            raise self._refuse(UriTooLong(f"the request line exceeds {self._limits.line} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header field, or drop a trailer."""
        assert self.request is not None
        self._progressed = True
        self._fields += 1
        if len(name) + len(value) + len(": ") > self._limits.field:
            raise self._refuse(HeadersTooLarge(f"a header exceeds {self._limits.field} bytes"))
        if self._fields > self._limits.fields:
            raise self._refuse(HeadersTooLarge(f"there are over {self._limits.fields} headers"))
        if self.in_body:
            self._check_trailer(name.lower())
        else:
            # llhttp leaves the white space behind a value, which is no part of it (RFC 9110 5.5)
            self.request.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Check the header section as a whole."""
        assert self.request is not None
        request = self.request
        request.method = self._llhttp.get_method().decode()
        request.version = self._llhttp.get_http_version()
        request.keep_alive = self._llhttp.should_keep_alive()
        if self._llhttp.should_upgrade():
            return
        try:
            _check_version(request)
            special = _singletons(request)
            _check_framing(request, special, self._limits.body)
            _split_target(request, special.get(b"host"))
            expects = _expects_continue(request)
        except RequestError as error:
            raise self._refuse(error) from None
        self.in_body = True
        if expects:
            self._receiver.continue_expected()

    def on_body(self, part: bytes) -> None:
        """Collect the body; a list of its parts would cost many times the size of tiny chunks."""
        self._progressed = True
        if not self._body:
            self._body = part
        elif isinstance(self._body, bytearray):
            self._body += part
        else:
            self._body = bytearray(self._body + part)
        if len(self._body) > self._limits.body:
            raise self._refuse(ContentTooLarge(f"the body exceeds {self._limits.body} bytes"))

    def on_message_complete(self) -> None:
        """Hand the request over."""
        assert self.request is not None
        self._progressed = True
        if self._llhttp.should_upgrade():
            return  # HttpParserUpgrade follows
        request, self.request = self.request, None
        request.body = bytes(self._body)
        self._body = b""
        self.in_body = self._ignored_upgrade = False
        self._closed = not request.keep_alive
        self._receiver.request_received(request)

    def _check_trailer(self, name: bytes) -> None:
        """Drop a trailer that is allowed; nothing in the contract would read it."""
        if name in FORBIDDEN_TRAILERS:
            raise self._refuse(BadRequest(f"{name.decode()!r} may not be a trailer"))


def _check_version(request: Request) -> None:
    if request.version not in ("1.1", "1.0"):
        raise HttpVersionNotSupported(f"HTTP/{request.version} is not served")


def _singletons(request: Request) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in request.headers:
        if name in SINGLETONS:
            if name in found:
                raise BadRequest(f"there is more than one {name.decode()} header")
            found[name] = value
    return found


def _check_framing(request: Request, special: dict[bytes, bytes], limit: int) -> None:
    coding = special.get(b"transfer-encoding")
    if coding is not None:
        if request.version == "1.0":  # RFC 9112 6.1: the framing is faulty
            raise BadRequest("Transfer-Encoding has no meaning in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise NotImplementedCoding(f"transfer coding {coding.decode('latin-1')!r} is unknown")
    length = special.get(b"content-length")
    if length is not None and int(length) > limit:
        raise ContentTooLarge(f"the body exceeds {limit} bytes")


def _split_target(request: Request, host: bytes | None) -> None:
    """Take path and query from any form of the request target (RFC 9112 3.2)."""
    if host is None and request.version == "1.1":
        raise BadRequest("an HTTP/1.1 request has a Host header")
    if host is not None and not HOST.fullmatch(host):
        raise BadRequest("the Host header is not a host")
    target = request.target
    if target == b"*" and request.method == "OPTIONS":
        request.path = b"*"
    elif not TARGET.fullmatch(target):
        raise BadRequest("the request target has a character that must be percent-encoded")
    elif target.startswith(b"/"):
        request.path, _, request.query = target.partition(b"?")
    else:
        _split_absolute_form(request, target, host)


def _split_absolute_form(request: Request, target: bytes, host: bytes | None) -> None:
    match = ABSOLUTE_FORM.fullmatch(target)
    if not match or not HOST.fullmatch(match[1]):
        raise BadRequest("the request target is neither a path nor an http URI")
    if host is not None and host.lower() != match[1].lower():
        raise BadRequest("the Host header differs from the host of the request target")
    request.path = match[2] or b"/"
    request.query = (match[3] or b"?")[1:]


def _expects_continue(request: Request) -> bool:
    expectation = next((value for name, value in request.headers if name == b"expect"), None)
    if expectation is None or request.version == "1.0":  # RFC 9110 10.1.1: ignored in HTTP/1.0
        return False
    if expectation.lower() != b"100-continue":
        raise ExpectationFailed("the only expectation met is 100-continue")
    return True
