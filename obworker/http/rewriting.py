"""Writes the head of a whole request again, for another worker to parse."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obworker.http.parser import Request

# The body is whole and not chunked by now, and the client was told to continue.
OF_THE_TRANSFER = frozenset((b"content-length", b"transfer-encoding", b"expect"))


def rewrite_head(request: Request) -> bytes:
    """Write the head of a request, its body framed by Content-Length where it has one."""
    head = request.head
    lines = [head.line.encode("latin-1")]
    framed = False
    for name, value in head.fields:
        if name in OF_THE_TRANSFER:
            framed = framed or name != b"expect"
        else:
            lines.append(b"%s:%s" % (name, value))  # a space could exceed the limit of a field
    if framed:
        lines.append(b"content-length: %d" % len(request.body))
    return b"\r\n".join(lines) + b"\r\n\r\n"
