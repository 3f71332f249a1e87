"""What a request's head means: where the body ends, what is asked for, of which host.

Whatever two servers might understand differently is refused, even where RFC 9112 would allow it:
request smuggling depends on such differences (RFC 9112 11.2).

Clients repeat themselves, and the meaning of a head depends on its bytes alone. So recent heads are
cached whole; for heads that differ in a field or two, such as a counter, single lines are cached as
well. Fields with credentials are not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import NamedTuple

from obworker.errors import (
    BadRequest,
    ExpectationFailed,
    HttpVersionNotSupported,
    NotImplementedCoding,
)
from obworker.http.environ import variables

REMEMBERED = 256
MOST_BYTES_REMEMBERED = 2048
SECRET = re.compile(rb"(?:\A|\n)(?:proxy-)?(?:authorization|cookie|x-api-key):", re.IGNORECASE)

# Clients choose what is matched: every pattern here fails in linear time.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# RFC 9112 3: registered methods are in upper case; a target has no control character, space,
# non-ASCII byte or fragment (3.2).
REQUEST_LINE = re.compile(rb"([A-Z][A-Z-]*) ([!-\"$-~]+) HTTP/(1\.[01])")
OTHER_TARGET = re.compile(rb"[A-Z][A-Z-]* .+ HTTP/1\.[01]")
OTHER_VERSION = re.compile(rb"[^ ]+ (?:/[^ ]*|[^ ]+ HTTP/(?!1\.[01])[0-9]\.[0-9])")
# RFC 9112 5 and RFC 9110 5.5: no white space before the colon, no line folding, no NUL or other
# control character. The white space around a value is no part of it.
FIELD = re.compile(rb"(%s):([^\x00-\x08\x0a-\x1f\x7f]*)" % TOKEN)
WHITE_SPACE = b" \t"
CRLF = b"\r\n"
HEAD_END = CRLF + CRLF

# RFC 3986 3.2.2 and 3.2.3; userinfo is refused (RFC 9110 4.2.4), and so is a port without a host.
NAME = rb"[A-Za-z0-9._~!$&'()*+,;=-]"
HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|\[v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+\]"
    rb"|(?=[^:])%s*(?:%%[0-9A-Fa-f]{2}%s*)*)(?::[0-9]*)?" % (NAME, NAME)
)
ABSOLUTE_FORM = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)(/[^?]*)?(\?.*)?")
# RFC 9110 8.6: more digits could only be meant to overflow an integer somewhere.
LENGTH = re.compile(rb"[0-9]{1,19}")

# RFC 9110 5.3 and RFC 9112 6.3: with two of one of these, a request is ambiguous.
SINGLETONS = frozenset((b"host", b"content-type", b"content-length", b"transfer-encoding"))

Field = tuple[bytes, bytes]


class RequestLine(NamedTuple):
    """A request line; `path` is empty where the target does not begin with a slash."""

    method: str
    target: bytes
    version: str
    path: bytes
    query: bytes


@lru_cache(REMEMBERED)
def read_request_line(line: bytes) -> RequestLine:
    """Take a request line apart (RFC 9112 3).

    Raises:
        BadRequest: it is malformed.
        HttpVersionNotSupported: it is of another version of HTTP (RFC 9110 15.6.6).
    """
    match = REQUEST_LINE.fullmatch(line)
    if match:
        method, target, version = match.groups()
        path, _, query = target.partition(b"?") if target.startswith(b"/") else (b"", b"", b"")
        return RequestLine(method.decode(), target, version.decode(), path, query)
    if OTHER_TARGET.fullmatch(line):
        raise BadRequest("the request target has a character that must be percent-encoded")
    if OTHER_VERSION.fullmatch(line):
        raise HttpVersionNotSupported("only HTTP/1.1 and HTTP/1.0 are served")
    raise BadRequest("malformed request line")


def read_field(line: bytes) -> Field:
    """Take a field line apart, its name in lower case (RFC 9112 5).

    Raises:
        BadRequest: it is malformed, or a Host or a Content-Length has an invalid value.
    """
    return _read_field(line) if SECRET.match(line) else _known_field(line)


def _read_field(line: bytes) -> Field:
    match = FIELD.fullmatch(line)
    if not match:
        raise BadRequest("malformed header")
    name, value = match[1].lower(), match[2].strip(WHITE_SPACE)
    if name == b"content-length" and not LENGTH.fullmatch(value):
        raise BadRequest("the Content-Length is not a number")
    if name == b"host" and value and not HOST.fullmatch(value):  # empty: RFC 9110 7.2
        raise BadRequest("the Host header is not a host")
    return name, value


_known_field = lru_cache(REMEMBERED)(_read_field)


class Head:
    """A parsed head; it is cached and shared by requests, so it must not be changed.

    `length` is the body's, None for a chunked one. `line` is the request line as logs show it,
    `variables` is the part of a WSGI environ that the head determines.

    Raises:
        RequestError: each line is valid, but not all of them together.
    """

    __slots__ = (
        "expects_continue",
        "fields",
        "keep_alive",
        "length",
        "line",
        "method",
        "path",
        "query",
        "target",
        "variables",
        "version",
    )

    def __init__(self, line: RequestLine, fields: Sequence[Field]) -> None:
        self.method, self.target, self.version, self.path, self.query = line
        self.fields = tuple(fields)
        named = by_name(fields)
        self.length = body_length(named, self.version)
        host = named.get(b"host")
        if host is None and self.version == "1.1":  # RFC 9112 3.2
            raise BadRequest("an HTTP/1.1 request has a Host header")
        if not self.path:
            self.path, self.query = split_target(self.method, self.target, host)
        self.keep_alive = persists(named.get(b"connection"), self.version)
        expects = expects_continue(named.get(b"expect"), self.version)
        self.expects_continue = expects and self.length != 0
        self.line = f"{self.method} {self.target.decode('latin-1')} HTTP/{self.version}"
        self.variables = variables(self)

    def as_last(self) -> Head:
        """Return a copy that ends the connection, whatever the client said."""
        last = copy(self)
        last.keep_alive = False
        return last


_known_heads: dict[bytes, Head] = {}


def read_head(raw: bytes) -> Head:
    """Parse a whole head, including the empty line at its end.

    Raises:
        RequestError: it has an error; where it has several, not always the first one.
    """
    head = _known_heads.get(raw)
    if head is None:
        request_line, *lines = raw[: -len(HEAD_END)].split(CRLF)
        head = Head(read_request_line(request_line), list(map(read_field, lines)))
        if len(raw) <= MOST_BYTES_REMEMBERED and not SECRET.search(raw):
            _remember(raw, head)
    return head


def _remember(raw: bytes, head: Head) -> None:
    if len(_known_heads) >= REMEMBERED:
        _known_heads.clear()
    _known_heads[raw] = head


def by_name(fields: Sequence[Field]) -> dict[bytes, bytes]:
    """Return the fields by name; one that came several times has all values (RFC 9110 5.3).

    Raises:
        BadRequest: a field came twice that may come once.
    """
    found = dict(fields)
    if len(found) < len(fields):
        found.clear()
        for name, value in fields:
            if name in SINGLETONS and name in found:
                raise BadRequest(f"there is more than one {name.decode()} header")
            found[name] = b"%s, %s" % (found[name], value) if name in found else value
    return found


def body_length(fields: dict[bytes, bytes], version: str) -> int | None:
    """Return the length of the body, or None for a chunked one (RFC 9112 6.3).

    Raises:
        BadRequest: the framing is ambiguous or invalid (RFC 9112 6.1).
        NotImplementedCoding: the body has a transfer coding other than chunked.
    """
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise BadRequest("there are both a Content-Length and a Transfer-Encoding")
        _check_coding(coding.lower(), version)
        return None
    return int(length or 0)


def _check_coding(coding: bytes, version: str) -> None:
    if version == "1.0":  # RFC 9112 6.1: the framing is faulty
        raise BadRequest("Transfer-Encoding has no meaning in HTTP/1.0")
    if coding == b"chunked":
        return
    *others, last = (part.strip(WHITE_SPACE) for part in coding.split(b","))
    if last != b"chunked" or last in others:  # RFC 9112 6.3 and 7
        raise BadRequest("chunked has to be the last transfer coding, and once")
    if not all(re.fullmatch(TOKEN, other) for other in others):
        raise BadRequest("malformed Transfer-Encoding")
    raise NotImplementedCoding("the only transfer coding implemented is chunked")


def split_target(method: str, target: bytes, host: bytes | None) -> tuple[bytes, bytes]:
    """Return path and query of a target that does not begin with a slash (RFC 9112 3.2).

    Raises:
        BadRequest: it is neither an http URI of this host, nor ``*`` for OPTIONS.
    """
    if target == b"*" and method == "OPTIONS":
        return b"*", b""
    match = ABSOLUTE_FORM.fullmatch(target)
    if not match or not HOST.fullmatch(match[1]):
        raise BadRequest("the request target is neither a path nor an http URI")
    if host is not None and host.lower() != match[1].lower():
        raise BadRequest("the Host header differs from the host of the request target")
    return match[2] or b"/", (match[3] or b"?")[1:]


def persists(connection: bytes | None, version: str) -> bool:
    """Return whether the connection persists after this request (RFC 9112 9.3)."""
    if connection is None:
        return version == "1.1"
    options = [option.strip(WHITE_SPACE) for option in connection.lower().split(b",")]
    return b"close" not in options and (version == "1.1" or b"keep-alive" in options)


def expects_continue(expectation: bytes | None, version: str) -> bool:
    """Return whether the client waits for 100 Continue (RFC 9110 10.1.1).

    Raises:
        ExpectationFailed: it expects something else.
    """
    if expectation is None or version == "1.0":
        return False
    if expectation.lower() != b"100-continue":
        raise ExpectationFailed("the only expectation met is 100-continue")
    return True
