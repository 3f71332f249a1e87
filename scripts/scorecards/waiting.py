"""Waiting for something to come true, never longer than said."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

POLL_SECONDS = 0.01

T = TypeVar("T")


class Late(Exception):
    """Something did not come true in time; the message says what and how long it was awaited."""


def eventually(condition: Callable[[], T | None], within: float, what: str) -> T:
    """Return the first true value of `condition`.

    Raises:
        Late: there was none within so many seconds.
    """
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise Late(f"{what}: not within {within:g} s")
        time.sleep(POLL_SECONDS)
    return value


def seconds_until(condition: Callable[[], object], within: float, what: str) -> float:
    """Return after how many seconds from now `condition` came true."""
    started = time.monotonic()
    eventually(condition, within, what)
    return time.monotonic() - started
