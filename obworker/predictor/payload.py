"""Parses request bodies by their Content-Type."""

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
# Python's names of charsets, without those whose time is quadratic in the length of the body.
KNOWN_CHARSETS = {*aliases, *aliases.values()} - {"idna", "punycode"}

DEEPEST = 5_000
"""The deepest nesting that fits on any thread's stack, at a few hundred bytes a level."""

# As fast as orjson, but orjson makes floats of integers over 64 bits.
_decode = msgspec.json.Decoder().decode


def parse(content_type: str, body: bytes) -> object:
    """Return the value in `body`; BadRequest if there is none."""
    return _parser(content_type)(body)


def parse_or_bytes(content_type: str, body: bytes) -> object:
    """Return the value in `body`, or `body` itself if there is none."""
    try:
        return parse(content_type, body)
    except BadRequest:
        return body


@functools.lru_cache(maxsize=256)  # bounded: a client chooses what is in here
def _parser(content_type: str) -> Callable[[bytes], object]:
    """Return the function that parses, or refuses, bodies of that type."""
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
        # codecs.lookup caches unknown names, too, for ever; so it must not get them.
        if charset.replace("-", "_") not in KNOWN_CHARSETS:
            raise LookupError(charset)
        recoded = body.decode(charset).encode()
    except (LookupError, ValueError) as error:  # errors of a codec, or a NUL in its name
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
    """Raise ValueError if msgspec might overrun the stack: its limit is Python's recursion limit.

    The user's code may have raised that; orjson has a limit of its own, of 1024.
    """
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        orjson.loads(body)


def _checked_map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    """Make a dict, with keys of simple types only: timestamps with equal hashes can be chosen."""
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
