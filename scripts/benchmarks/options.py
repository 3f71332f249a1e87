"""The options that several benchmarks share, and their types."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.servers import Server

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
    """Return a number of bytes, parsed from text such as 1MiB or 10GB."""
    match = re.fullmatch(r"(\d+) ?([A-Za-z]*)", text)
    if not match or match[2] not in _UNITS:
        raise ValueError(text)
    return int(match[1]) * _UNITS[match[2]]


def add_only(parser: argparse.ArgumentParser, servers: Iterable[Server]) -> None:
    """Declare the option that restricts a benchmark to some of its servers."""
    names = [server.name for server in servers]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="measure this server; may be repeated; one of: " + ", ".join(names),
    )


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare the option that names a file for the figures."""
    parser.add_argument(
        "--json",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help=f"also write {what} to FILE",
    )
