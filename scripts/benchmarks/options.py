"""Types of options that several benchmarks have."""

from __future__ import annotations

import math
import re

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6}
_UNITS["GB"] = 10**9


def count(text: str) -> int:
    """Return a number of 1 or more."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def seconds(text: str) -> float:
    """Return a time of more than 0 seconds."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def delay(text: str) -> float:
    """Return a time of 0 seconds or more."""
    return 0.0 if float(text) == 0 else seconds(text)


def size(text: str) -> int:
    """Return a number of bytes, from such as 1MiB or 10GB."""
    match = re.fullmatch(r"(\d+) ?([A-Za-z]*)", text)
    if not match or match[2] not in _UNITS:
        raise ValueError(text)
    return int(match[1]) * _UNITS[match[2]]
