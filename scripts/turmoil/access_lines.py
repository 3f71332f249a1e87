"""Reads the access log of a run, which rotations have spread over several files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Lines(NamedTuple):
    """How many lines each request has, and the lines that are incomplete."""

    ids: Counter[str]
    torn: list[str]


def rotate(path: Path) -> None:
    """Rename a log, as logrotate does; the server still has to be told.

    There is no such file when no worker has opened it again since the last rotation.
    """
    number = sum(1 for _ in path.parent.glob(f"{path.name}.*"))
    with suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.{number:05}"))


def read(path: Path) -> Lines:
    """Read all files of the log."""
    found = Lines(Counter(), [])
    for line in _lines(path):
        if request_id := _request_id(line):
            found.ids[request_id] += 1
        else:
            found.torn.append(line)
    return found


def _request_id(line: str) -> str | None:
    """Return the request's id in a line, or None if the line is incomplete."""
    try:
        return str(json.loads(line)["request_id"])
    except (ValueError, TypeError, KeyError):
        return None


def _lines(path: Path) -> Iterator[str]:
    for file in sorted(path.parent.glob(f"{path.name}*")):
        with file.open(newline="\n", encoding="utf-8", errors="replace") as lines:
            yield from lines
