"""The lines of a chunked body: the sizes of chunks, and the trailer fields (RFC 9112 7.1)."""

from __future__ import annotations

import re

from obworker.errors import BadRequest
from obworker.http.head import SINGLETONS, TOKEN

# RFC 9112 7.1: a size of 64 bits is enough. The white space that 7.1.1 calls bad is refused.
DIGITS = 16
QUOTED = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\""
EXTENSION = rb";%s(?:=(?:%s|%s))?" % (TOKEN, TOKEN, QUOTED)
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,%d})((?:%s)*)" % (DIGITS, EXTENSION))
PLAIN_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,%d})\r\n" % DIGITS)
# RFC 9112 7.1.1: limit on the extensions of a request taken together; they are ignored.
EXTENSIONS = 4096
# RFC 9110 6.5.1: fields that frame, route or authenticate may not come after the body.
FORBIDDEN_TRAILERS = SINGLETONS | {
    b"authorization", b"connection", b"content-encoding", b"content-range", b"cookie", b"expect",
    b"keep-alive", b"proxy-authorization", b"te", b"trailer", b"upgrade",
}  # fmt: skip


def read_chunk_size(line: bytes) -> tuple[int, int]:
    """Return the size of the chunk that follows a line, and the length of the line's extensions.

    Raises:
        BadRequest: the line is malformed.
    """
    match = CHUNK_SIZE.fullmatch(line)
    if match is None:
        raise BadRequest("malformed chunk size")
    return int(match[1], 16), len(match[2])


def check_trailer(name: bytes) -> None:
    """Raise BadRequest if a field may not be a trailer."""
    if name in FORBIDDEN_TRAILERS:
        raise BadRequest(f"{name.decode()!r} may not be a trailer")
