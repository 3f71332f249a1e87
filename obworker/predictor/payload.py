"""A request body becomes a Python value, by its Content-Type; reads no stream."""

from __future__ import annotations

import codecs
import enum
import functools
import json
import re
from email.message import Message
from encodings.aliases import aliases

import msgpack  # type: ignore[import-untyped]
import orjson

from obworker.errors import BadRequest

MSGPACK_TYPES = (
    "application/msgpack",
    "application/x-msgpack",
    "application/vnd.msgpack",
    "application/vnd.messagepack",
)

UTF8 = "utf-8"
# Python's names of charsets, but for those that take time quadratic in the length of the body.
KNOWN_CHARSETS = {*aliases, *aliases.values()} - {"idna", "punycode"}

# orjson makes floats of integers over 64 bits. Most bodies are cleared by looking for 19 digits
# in a row (ten times as fast as the expression), the rest by the expression, which leaves
# fractions alone.
_DIGITS_AS_ZEROS = bytes(48 if chr(byte) in "0123456789" else 32 for byte in range(256))
_LONG_RUN = b"0" * 19
_BIG_INTEGER = re.compile(rb"(?:^|[\s\[,:-])[1-9][0-9]{18,}(?:$|[\s\],}])")


class Format(enum.Enum):
    """What a body can be parsed as."""

    JSON = "JSON"
    MSGPACK = "MessagePack"


def parse(content_type: str, body: bytes) -> object:
    """Return the value `body` holds; BadRequest where it holds none."""
    format_, charset = recognise(content_type)
    if format_ is None:
        raise BadRequest(_unrecognised(content_type))
    if not body:
        raise BadRequest(f"the body is empty; it should be {format_.value}")
    if format_ is Format.MSGPACK:
        return _parse_msgpack(body)
    return _parse_json(body if charset == UTF8 else _recode(body, charset))


def parse_or_bytes(content_type: str, body: bytes) -> object:
    """Return the value `body` holds, or `body` itself where it holds none."""
    try:
        return parse(content_type, body)
    except BadRequest:
        return body


@functools.lru_cache(maxsize=256)  # bounded: a client chooses what is in here
def recognise(content_type: str) -> tuple[Format | None, str]:
    """Return the format that `content_type` names, and the charset of its text."""
    message = Message()
    message["Content-Type"] = content_type
    charset = str(message.get_param("charset", UTF8)).lower()
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        return Format.JSON, UTF8 if charset in {"utf8", ""} else charset
    if media_type in MSGPACK_TYPES or media_type.endswith("+msgpack"):
        return Format.MSGPACK, charset
    return None, charset


def _unrecognised(content_type: str) -> str:
    if not content_type:
        return "no Content-Type; send application/json or application/msgpack"
    shown = content_type.partition(";")[0][:100]
    return f"Content-Type {shown} is neither application/json nor application/msgpack"


def _recode(body: bytes, charset: str) -> bytes:
    try:
        # A name that is unknown must not reach codecs.lookup, which remembers every one for ever.
        if charset.replace("-", "_") not in KNOWN_CHARSETS:
            raise LookupError(charset)
        return body.decode(charset).encode()
    except (LookupError, ValueError) as error:  # a codec's errors, and a null in its name
        if isinstance(error, UnicodeError):
            raise BadRequest(f"the body is not {charset[:40]} text") from error
        raise BadRequest(f"unknown charset {charset[:40]!r}") from error


def _parse_json(body: bytes) -> object:
    if body.startswith(codecs.BOM_UTF8):  # RFC 8259 8.1: a parser may ignore it
        body = body[3:]
    try:
        value = orjson.loads(body)
        return json.loads(body) if _holds_big_integer(body) else value
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from error


def _holds_big_integer(body: bytes) -> bool:
    return _LONG_RUN in body.translate(_DIGITS_AS_ZEROS) and bool(_BIG_INTEGER.search(body))


def _checked_map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    """Make a dict of a map whose keys are simple: one can choose timestamps of the same hash."""
    for key, _ in pairs:
        if not isinstance(key, str | bytes | int | float | None):
            raise TypeError(f"unhashable type: {type(key).__name__}")
    return dict(pairs)


def _parse_msgpack(body: bytes) -> object:
    try:
        return msgpack.unpackb(
            body, raw=False, strict_map_key=False, object_pairs_hook=_checked_map
        )
    except (ValueError, TypeError) as error:  # TypeError: a key that is a list or a map
        reason = str(error) or "nested too deeply"
        raise BadRequest(f"the body is not valid MessagePack: {reason}") from error
