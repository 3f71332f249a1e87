"""Chooses the media type of a reply by the client's Accept field (RFC 9110 12.5.1)."""

from __future__ import annotations

import functools

from obworker.errors import NotAcceptable
from obworker.predictor.payload import MSGPACK_TYPES

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
OFFERED = (JSON, *MSGPACK_TYPES)  # in our order of preference
NO_PREFERENCE = frozenset({"", "*/*", JSON})


def choose(accept: str) -> str:
    """Return the offered media type that the client prefers; NotAcceptable if it accepts none."""
    if accept in NO_PREFERENCE or not accept.strip(", \t"):  # a list may have empty elements
        return JSON
    chosen = _best(accept)
    if chosen is None:
        raise NotAcceptable(f"none of {accept[:200]} can be had; there is {', '.join(OFFERED)}")
    return chosen


@functools.lru_cache(maxsize=256)  # bounded: a client chooses what is in here
def asks_for_events(accept: str) -> bool:
    """Return whether the client asks for Server-Sent Events by name, not by a wildcard."""
    return _ranges(accept).get(EVENT_STREAM, 0.0) > 0


@functools.lru_cache(maxsize=256)
def _best(accept: str) -> str | None:
    ranges = _ranges(accept)
    quality, _, media_type = max(
        (_quality(media_type, ranges), -place, media_type)
        for place, media_type in enumerate(OFFERED)
    )
    return media_type if quality > 0 else None


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    # the most specific range decides, even where a wider one gives more
    for name in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0


def _ranges(accept: str) -> dict[str, float]:
    ranges: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        ranges[name] = max(_weight(parameters), ranges.get(name, 0.0))
    return ranges


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
            return min(weight, 1.0) if weight > 0 else 0.0  # NaN counts as malformed, which is 0
    return 1.0
