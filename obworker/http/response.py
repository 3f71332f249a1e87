"""Encodes the head of a response, and frames its body (RFC 9112 6). Pure: it uses no sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from obworker.errors import RequestError

REMEMBERED = 256
MOST_BYTES_REMEMBERED = 1024

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LINE_BREAK = re.compile(r"[\r\n\0]")
# PEP 3333 forbids applications these fields; RFC 9110 7.6.1 lists them.
HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

Headers = Sequence[tuple[str, str]]


class Framing(Enum):
    """How the client knows where the body ends."""

    NO_BODY = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()


# Looking up an Enum's member takes ten times as long as looking up a name of the module.
NO_BODY, LENGTH, CHUNKED, CLOSE = Framing


def framing(method: str, version: str, status: int, length: int | None) -> Framing:
    """Decide on the framing (RFC 9112 6.3); `length` is the body's size if known."""
    if method == "HEAD" or status in (204, 304) or status < 200:
        return NO_BODY
    if length is not None:
        return LENGTH
    return CHUNKED if version == "1.1" else CLOSE


class Opening(NamedTuple):
    """An application's status line and header fields, encoded as `lines`; see `opening`.

    `names` are those of the fields, in lower case. `length` is the value of Content-Length, which
    is not in `lines`. `is_plain` says that neither Date nor X-Request-ID is: those always differ.
    """

    status: int
    lines: bytes
    names: frozenset[str]
    length: int | None
    is_plain: bool


_known: dict[tuple[str, tuple[tuple[str, str], ...]], Opening] = {}


def opening(status: str, headers: Headers) -> tuple[Opening, int | None]:
    """Check and encode the arguments of start_response; return Content-Length separately.

    Most responses begin like an earlier one, so recent results are cached.

    Raises:
        ValueError: a status, name or value would break the framing (response splitting), or
            Content-Length is not one number (RFC 9110 8.6).
        TypeError: an argument is of a type that PEP 3333 does not allow.
    """
    if type(headers) is not list:  # an iterator can be read once
        headers = list(headers)
    try:
        fields = dict(headers)
        length = fields.pop("Content-Length", None)
        if length is None or len(fields) + 1 < len(headers):
            known = _look_up(status, tuple(headers))
            return known, known.length
        known = _look_up(status, tuple(fields.items()))
        is_valid = known.length is None and length.isascii() and length.isdecimal()
    except (AttributeError, TypeError) as error:
        raise TypeError(_what_is_not_text(status, headers) or str(error)) from None
    if not is_valid:
        raise ValueError(f"Content-Length {length!r} is not one number")
    return known, int(length)


def _look_up(status: str, headers: tuple[tuple[str, str], ...]) -> Opening:
    known = _known.get((status, headers))
    if known is None:
        known = _write_opening(status, headers)
        if len(known.lines) <= MOST_BYTES_REMEMBERED and "set-cookie" not in known.names:
            if len(_known) >= REMEMBERED:
                _known.clear()
            _known[status, headers] = known
    return known


def _write_opening(status: str, headers: Headers) -> Opening:
    lines, names, lengths = [_status_line(status)], set(), []
    for name, value in headers:
        if not TOKEN.fullmatch(name):
            raise ValueError(f"header name {name!r} is not a token")
        key = name.lower()
        if key == "content-length":
            lengths.append(value)
        elif key not in HOP_BY_HOP:
            names.add(key)
            lines.append(_line(name, value))
    if "server" not in names:
        lines.append(b"Server: obworker\r\n")
    return Opening(
        int(status[:3]),
        b"".join(lines),
        frozenset(names),
        _one_number(lengths) if lengths else None,
        names.isdisjoint(("date", "x-request-id")),
    )


def _status_line(status: str) -> bytes:
    # 1xx is not a final response: the client would go on waiting (RFC 9110 15.2)
    if not re.fullmatch(r"[2-9]\d\d( [\t -~\x80-\xff]*)?", status):
        raise ValueError(f"status {status!r} is not three digits of a final status and a reason")
    return f"HTTP/1.1 {status if ' ' in status else status + ' '}\r\n".encode("latin-1")


def _line(name: str, value: str) -> bytes:
    if LINE_BREAK.search(value):
        raise ValueError(f"the value of the header {name} has a line break or a NUL")
    return f"{name}: {value}\r\n".encode("latin-1")


def _what_is_not_text(status: object, headers: Iterable[object]) -> str:
    """Say which argument of start_response has made trouble, as the error itself does not."""
    if not isinstance(status, str):
        return f"the status is not str but {status!r}"
    for field in headers:
        if not isinstance(field, tuple):
            return f"a header is not a tuple but {field!r}"
        name, value = field
        if not isinstance(name, str):
            return f"the name of a header is not str but {name!r}"
        if not isinstance(value, str):
            return f"the value of the header {name} is not str but {value!r}"
    return ""


def _one_number(values: list[str]) -> int:
    if len(values) > 1 or not (values[0].isascii() and values[0].isdecimal()):
        raise ValueError(f"Content-Length {', '.join(map(repr, values))} is not one number")
    return int(values[0])


def head(
    opening: Opening,
    *,
    length: int | None = None,
    chunked: bool = False,
    keep_alive: bool,
    version: str,
    date: bytes,
    request_id: str = "",
    fields: Headers = (),
) -> bytes:
    """Return the status line and the header section, with `length` as Content-Length.

    `date` (Date), `request_id` (X-Request-ID, checked by given_id) and `fields` are added
    unless the application set a field of that name; Vary is added all the same, as several add up
    (RFC 9110 12.5.5).
    """
    end = b"\r\n" if keep_alive and version == "1.1" else _end(keep_alive=keep_alive)
    if opening.is_plain and request_id and length is not None and not fields:  # the usual case
        changing = (opening.lines, date, request_id.encode(), length, end)
        return b"%bDate: %b\r\nX-Request-ID: %b\r\nContent-Length: %d\r\n%b" % changing
    names = opening.names
    lines = [opening.lines]
    if "date" not in names:
        lines.append(b"Date: %b\r\n" % date)
    if request_id and "x-request-id" not in names:
        lines.append(b"X-Request-ID: %b\r\n" % request_id.encode())
    for name, value in fields:
        if name.lower() not in names or name == "Vary":
            lines.append(_line(name, value))
    if length is not None:
        lines.append(b"Content-Length: %d\r\n" % length)
    if chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    return b"".join((*lines, end))


def _end(*, keep_alive: bool) -> bytes:
    """Return the end of a head that must say whether the connection persists (RFC 9112 9.3)."""
    return b"Connection: keep-alive\r\n\r\n" if keep_alive else b"Connection: close\r\n\r\n"


def chunk(part: bytes) -> bytes:
    """Frame one chunk (RFC 9112 7.1); `part` is not empty."""
    return b"%x\r\n%b\r\n" % (len(part), part)


def http_date(timestamp: float) -> bytes:
    """Return a POSIX timestamp in the format of HTTP (RFC 9110 5.6.7)."""
    return formatdate(timestamp, usegmt=True).encode()


def body_size(answer: bytes) -> int:
    """Return the size of the body in a whole response."""
    return len(answer.partition(b"\r\n\r\n")[2])


def error_response(
    error: RequestError,
    *,
    method: str = "",
    version: str = "1.1",
    date: bytes,
    keep_alive: bool = False,
    request_id: str = "",
    fields: Headers = (),
) -> bytes:
    """Return a whole response for an error that the server itself reports.

    `method` is empty if the request could not be parsed; `fields` are added to the header.
    """
    body = json.dumps({"error": str(error)}, ensure_ascii=False, separators=(",", ":")).encode()
    headers = [("Content-Type", "application/json")]
    if error.status == 503:
        headers.append(("Retry-After", "1"))
    first, _ = opening(f"{error.status} {error.reason}", headers)
    whole_head = head(
        first,
        length=len(body),
        keep_alive=keep_alive,
        version=version,
        date=date,
        request_id=request_id,
        fields=fields,
    )
    return whole_head if method == "HEAD" else whole_head + body
