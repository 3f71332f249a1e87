"""Waits for a condition to become true, with a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

POLL_SECONDS = 0.01

T = TypeVar("T")


class Late(Exception):
    """A condition was not true in time; the message says which one, and after how long."""


def eventually(condition: Callable[[], T | None], within: float, what: str) -> T:
    """Poll `condition` until it returns a true value, and return that.

    Raises:
        Late: it returned none within so many seconds.
    """
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise Late(f"{what}: not within {within:g} s")
        time.sleep(POLL_SECONDS)
    return value


def seconds_until(condition: Callable[[], object], within: float, what: str) -> float:
    """Return after how many seconds from now `condition` was true."""
    started = time.monotonic()
    eventually(condition, within, what)
    return time.monotonic() - started
