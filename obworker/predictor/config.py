"""The argument ``config`` of ``__init__``: how the worker calls predict."""

from __future__ import annotations

import math
import operator
from numbers import Real

from obworker.predictor.batching import DEFAULT_SIZE, BatchLimits


class Config:
    """The argument ``config`` of ``__init__``: by it a predictor says how it may be called.

    `threads` is how many native threads this worker may use: its share of the cores.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.most_calls: int | None = None
        self.batch_limits: BatchLimits | None = None

    def batch(self, *, max_size: int = DEFAULT_SIZE, max_wait_ms: float = 0) -> None:
        """Have predict_batch called, for `max_size` requests at most.

        A batch that is smaller waits until its first request is `max_wait_ms` old. The options
        --max-batch-size and --max-batch-wait-ms override this.
        """
        size = _count("config.batch takes as max_size", max_size)
        self.batch_limits = BatchLimits(size, _milliseconds(max_wait_ms) / 1000)

    def limit_concurrency(self, n: int) -> None:
        """Let at most `n` requests of this worker be in predict at once."""
        self.most_calls = _count("limit_concurrency takes", n)


def _count(taking: str, n: object) -> int:
    try:
        count = operator.index(n)  # type: ignore[arg-type]  # to see whether it is one
    except TypeError:
        raise TypeError(f"{taking} a whole number, not {n!r}") from None
    if isinstance(n, bool) or count < 1:
        raise ValueError(f"{taking} 1 or more, not {n}")
    return count


def _milliseconds(number: object) -> float:
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"config.batch takes as max_wait_ms a number, not {number!r}")
    if not 0 <= float(number) < math.inf:
        raise ValueError(f"config.batch takes as max_wait_ms 0 or more, not {number}")
    return float(number)
