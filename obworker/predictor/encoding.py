"""Encodes Python values as JSON or MessagePack.

JSON has no NaN and no infinities; they become null, as in JavaScript.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import json
import math
import sys
import uuid
from typing import Any

import msgpack  # type: ignore[import-untyped]
import orjson

# orjson would encode these differently than they are meant: a MultiDict with lists as values, a
# dataclass with attributes that are not fields.
PASSED_THROUGH = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS
JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | PASSED_THROUGH
ALLOWED = "dict, list, tuple, str, bytes, int, float, bool, None, numpy arrays and numbers"
BYTES = (bytes, bytearray, memoryview)
_MSGPACK_KINDS = (bool, int, float, str, bytes, bytearray, list, tuple, dict, type(None))
_SUBCLASSED: tuple[type[Any], ...] = (tuple, list, int, float)


class ReplyError(TypeError):
    """What predict returned cannot be sent."""


def to_json(value: object) -> bytes:
    """Encode `value` as UTF-8 JSON, bytes in it as base64."""
    try:
        return orjson.dumps(value, default=_json_default, option=JSON_OPTIONS)
    except TypeError:
        return _to_json_slowly(value)


def to_msgpack(value: object) -> bytes:
    """Encode `value` as MessagePack, bytes in it as they are."""
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True, default=_msgpack_default)
    except (BufferError, OverflowError, RecursionError, ValueError) as error:
        raise ReplyError(f"the value does not fit in MessagePack: {error}") from error
    return packed


def _json_default(value: object) -> object:
    if isinstance(value, BYTES):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, dict):
        return dict(value.items())
    if isinstance(value, str):
        return str.__str__(value)
    for kind in _SUBCLASSED:
        if isinstance(value, kind):
            return kind(value)
    return _simplify_other(value)


def _simplify_other(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # as orjson does, but also for subclasses
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    return _from_numpy(value)


def _msgpack_default(value: object) -> object:
    # msgpack calls this once for each object, so the result must be of a type that it knows
    simpler = _simplify(value)
    return simpler if isinstance(simpler, _MSGPACK_KINDS) else _msgpack_default(simpler)


def _simplify(value: object) -> object:
    if isinstance(value, int):
        raise ReplyError("an integer over 64 bits does not fit in MessagePack")
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, enum.Enum):
        return value.value
    return _simplify_other(value)


def _from_numpy(value: object) -> object:
    numpy = sys.modules.get("numpy")  # without the import there is no value of its types
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        plain = _to_list(value)
        if not isinstance(plain, numpy.generic):  # tolist() does not convert a longdouble
            return plain
    raise ReplyError(f"a {_name(value)} cannot be sent; allowed are {ALLOWED}")


def _to_list(value: Any) -> object:
    if value.dtype.kind == "M":  # tolist() makes integers of nanoseconds
        value = value.astype("datetime64[us]")
    return value.tolist()


def _to_json_slowly(value: object) -> bytes:
    """Encode what orjson refuses: integers over 64 bits, lone surrogates, deep nesting.

    Its errors say which value cannot be encoded; orjson's do not.
    """
    try:
        text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise ReplyError("the value is nested too deeply, or holds itself") from error
    except ValueError as error:  # an integer with more digits than Python converts to text
        raise ReplyError(str(error)) from error
    # JSON writes a lone surrogate as Python's backslashreplace does: \ud800
    return text.encode("utf-8", "backslashreplace")


def _plain(value: object) -> object:
    """Return `value` in types that the standard library's json can encode."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_plain_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _plain(_json_default(value))


def _plain_key(key: object) -> str:
    plain = key if isinstance(key, bytes | tuple) else _plain(key)
    if isinstance(plain, str):
        return plain
    if plain is None or isinstance(plain, int | float):
        return json.dumps(plain)
    raise ReplyError(f"a {_name(key)} cannot be a key in JSON; use str")


def _name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
