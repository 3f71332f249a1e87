"""A request body becomes a Python value, by its Content-Type; reads no stream."""

from __future__ import annotations

import codecs
import functools
import sys
from email.message import Message
from encodings.aliases import aliases
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import msgpack  # type: ignore[import-untyped]
import msgspec
import orjson

from obworker.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

MSGPACK_TYPES = (
    "application/msgpack",
    "application/x-msgpack",
    "application/vnd.msgpack",
    "application/vnd.messagepack",
)

UTF8 = {"utf-8", "utf8", ""}
# Python's names of charsets, but for those that take time quadratic in the length of the body.
KNOWN_CHARSETS = {*aliases, *aliases.values()} - {"idna", "punycode"}

DEEPEST = 5_000
"""How deep a value may be made on any thread's stack, at a few hundred bytes a level."""

# As fast as orjson, which makes floats of integers over 64 bits.
_decode = msgspec.json.Decoder().decode


def parse(content_type: str, body: bytes) -> object:
    """Return the value `body` holds; BadRequest where it holds none."""
    return _parser(content_type)(body)


def parse_or_bytes(content_type: str, body: bytes) -> object:
    """Return the value `body` holds, or `body` itself where it holds none."""
    try:
        return parse(content_type, body)
    except BadRequest:
        return body


@functools.lru_cache(maxsize=256)  # bounded: a client chooses what is in here
def _parser(content_type: str) -> Callable[[bytes], object]:
    """Return what parses, or refuses, every body of a type."""
    message = Message()
    message["Content-Type"] = content_type
    charset = str(message.get_param("charset", "")).lower()
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        return _parse_json if charset in UTF8 else partial(_parse_recoded, charset)
    if media_type in MSGPACK_TYPES or media_type.endswith("+msgpack"):
        return _parse_msgpack
    return partial(_refuse, content_type)


def _refuse(content_type: str, _body: bytes) -> NoReturn:
    if not content_type:
        raise BadRequest("no Content-Type; send application/json or application/msgpack")
    shown = content_type.partition(";")[0][:100]
    raise BadRequest(f"Content-Type {shown} is neither application/json nor application/msgpack")


def _parse_recoded(charset: str, body: bytes) -> object:
    try:
        # A name that is unknown must not reach codecs.lookup, which remembers every one for ever.
        if charset.replace("-", "_") not in KNOWN_CHARSETS:
            raise LookupError(charset)
        recoded = body.decode(charset).encode()
    except (LookupError, ValueError) as error:  # a codec's errors, and a null in its name
        if isinstance(error, UnicodeError):
            raise BadRequest(f"the body is not {charset[:40]} text") from error
        raise BadRequest(f"unknown charset {charset[:40]!r}") from error
    return _parse_json(recoded)


def _parse_json(body: bytes) -> object:
    if not body:
        raise BadRequest("the body is empty; it should be JSON")
    if body.startswith(codecs.BOM_UTF8):  # RFC 8259 8.1: a parser may ignore it
        body = body[3:]
    try:
        if len(body) > DEEPEST and sys.getrecursionlimit() > DEEPEST:
            _check_depth(body)
        return _decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from error


def _check_depth(body: bytes) -> None:
    """Raise ValueError where msgspec might overrun the stack: it nests as deep as Python may.

    Code of the user's may have raised that limit; orjson has one of its own, of 1024.
    """
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        orjson.loads(body)


def _checked_map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    """Make a dict of a map whose keys are simple: one can choose timestamps of the same hash."""
    for key, _ in pairs:
        if not isinstance(key, str | bytes | int | float | None):
            raise TypeError(f"unhashable type: {type(key).__name__}")
    return dict(pairs)


def _parse_msgpack(body: bytes) -> object:
    if not body:
        raise BadRequest("the body is empty; it should be MessagePack")
    try:
        return msgpack.unpackb(
            body, raw=False, strict_map_key=False, object_pairs_hook=_checked_map
        )
    except (ValueError, TypeError) as error:  # TypeError: a key that is a list or a map
        is_deep = isinstance(error, msgpack.StackError)
        reason = str(error) or ("nested too deeply" if is_deep else "a byte begins no value")
        raise BadRequest(f"the body is not valid MessagePack: {reason}") from error
