"""extend_deadline: how predict asks for more time.

Imported by every ``import obworker``, so it must be light. Our server puts the function that moves
a request's deadline into its environ, as ``obworker.extend_deadline``; other servers do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from numbers import Real

extension: ContextVar[Callable[[float], object] | None] = ContextVar("extension", default=None)


def extend_deadline(seconds: float) -> None:
    """Let the current request take `seconds` from now, if it would have less time.

    A call never shortens the time. Where there is no request or no deadline it has no effect: in
    ``__init__``, in a thread with another context, under another server.

    Raises:
        TypeError: `seconds` is not a number.
        ValueError: `seconds` is not positive and finite.
    """
    given = _checked(seconds)
    extend = extension.get()
    if extend is not None:
        extend(given)


def _checked(seconds: object) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, Real):
        raise TypeError(f"extend_deadline takes a number of seconds, not {seconds!r}")
    number = _float(seconds)
    if not 0 < number < math.inf:
        raise ValueError(f"extend_deadline takes a positive, finite number, not {number}")
    return number


def _float(number: Real) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer past the largest float
        return math.inf
