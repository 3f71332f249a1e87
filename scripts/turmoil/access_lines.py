"""The access log of a run, in the files that rotations left of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Lines(NamedTuple):
    """How often each request is named, and the lines that are not whole."""

    ids: Counter[str]
    torn: list[str]


def rotate(path: Path) -> None:
    """Rename a log, as logrotate does; whoever writes it has to be told.

    It is missing where no worker has opened it again since the last time.
    """
    number = sum(1 for _ in path.parent.glob(f"{path.name}.*"))
    with suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.{number:05}"))


def read(path: Path) -> Lines:
    """Read the log in all its files."""
    found = Lines(Counter(), [])
    for line in _lines(path):
        if request_id := _request_id(line):
            found.ids[request_id] += 1
        else:
            found.torn.append(line)
    return found


def _request_id(line: str) -> str | None:
    """Return the id in a line; None where the line is not whole."""
    try:
        return str(json.loads(line)["request_id"])
    except (ValueError, TypeError, KeyError):
        return None


def _lines(path: Path) -> Iterator[str]:
    for file in sorted(path.parent.glob(f"{path.name}*")):
        with file.open(newline="\n", encoding="utf-8", errors="replace") as lines:
            yield from lines
