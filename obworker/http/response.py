"""The head of a response as bytes, and how its body is framed (RFC 9112 6). Knows no sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from email.utils import formatdate
from enum import Enum, auto
from functools import lru_cache

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# PEP 3333: an application says nothing about the connection; RFC 9110 7.6.1 lists these.
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


def framing(method: str, version: str, status: int, length: int | None) -> Framing:
    """Decide the framing (RFC 9112 6.3); `length` is the body's size where it is known."""
    if method == "HEAD" or status in (204, 304) or status < 200:
        return Framing.NO_BODY
    if length is not None:
        return Framing.LENGTH
    return Framing.CHUNKED if version == "1.1" else Framing.CLOSE


@lru_cache(maxsize=512)
def _field_name(name: str) -> str:
    """Return `name` with its colon, or an empty string for a hop-by-hop field."""
    if not TOKEN.fullmatch(name):
        raise ValueError(f"header name {name!r} is not a token")
    return "" if name.lower() in HOP_BY_HOP else name + ": "


@lru_cache(maxsize=256)
def _status_line(status: str) -> str:
    # 1xx would be no final response, and the client would wait on (RFC 9110 15.2)
    if not re.fullmatch(r"[2-9]\d\d( [\t -~\x80-\xff]*)?", status):
        raise ValueError(f"status {status!r} is not three digits of a final status and a reason")
    return f"HTTP/1.1 {status if ' ' in status else status + ' '}\r\n"


def head(
    status: str,
    headers: Headers,
    *,
    keep_alive: bool,
    version: str,
    date: str,
    chunked: bool = False,
    fields: Headers = (),
) -> bytes:
    """Write the status line and the header section.

    `date` is the Date field, and `fields` others, to send where the application sent none of that
    name; what a response varies by adds up (RFC 9110 12.5.5).

    Raises:
        ValueError: a status, name or value would break the framing (response splitting).
    """
    lines = [_status_line(status)]
    defaults = {"server": "Server: obworker\r\n", "date": f"Date: {date}\r\n"}
    for name, value in fields:
        defaults[name.lower()] = f"{name}: {value}\r\n"
    for name, value in headers:
        field = _field_name(name)
        if field:
            lines.append(f"{field}{value}\r\n")
            key = name.lower()
            if key != "vary":
                defaults.pop(key, None)
    lines.extend(defaults.values())
    if chunked:
        lines.append("Transfer-Encoding: chunked\r\n")
    if not keep_alive:
        lines.append("Connection: close\r\n")
    elif version == "1.0":
        lines.append("Connection: keep-alive\r\n")
    lines.append("\r\n")
    text = "".join(lines)
    # One scan of the whole instead of one for each value: every line has the one CRLF we wrote.
    if text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
        raise ValueError("a header value has a line break or a NUL")
    return text.encode("latin-1")


def chunk(part: bytes) -> bytes:
    """Frame one chunk (RFC 9112 7.1); `part` is not empty."""
    return b"%x\r\n%b\r\n" % (len(part), part)


def http_date(timestamp: float) -> str:
    """Write a POSIX timestamp as HTTP does (RFC 9110 5.6.7)."""
    return formatdate(timestamp, usegmt=True)


def content_length(headers: Headers) -> int | None:
    """Return what Content-Length says, where there is one.

    Raises:
        ValueError: there is more than one, or it is not a number (RFC 9110 8.6).
    """
    values = [value for name, value in headers if name.lower() == "content-length"]
    if not values:
        return None
    if len(values) > 1 or not re.fullmatch(r"[0-9]+", values[0]):
        raise ValueError(f"Content-Length {', '.join(values)!r} is not one number")
    return int(values[0])


def error_response(
    status: int,
    reason: str,
    message: str,
    *,
    method: str,
    version: str,
    date: str,
    keep_alive: bool = False,
    fields: Headers = (),
) -> bytes:
    """Write a whole response for an error of the server's own.

    `method` is empty where the request was not understood; `fields` are added to the header.
    """
    body = json.dumps({"error": message}, ensure_ascii=False, separators=(",", ":")).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if status == 503:
        headers.append(("Retry-After", "1"))
    first = head(
        f"{status} {reason}",
        headers,
        keep_alive=keep_alive,
        version=version,
        date=date,
        fields=fields,
    )
    return first if method == "HEAD" else first + body
