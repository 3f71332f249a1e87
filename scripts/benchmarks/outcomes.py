"""Requests that are due at an instant, and their outcomes. No clock, no socket."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.queueing import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable

UNANSWERED = "unanswered"
UNSENT = "no free connection"


class Arrival(NamedTuple):
    """A request that is due `at` seconds after the start of the run, with its bytes in parts."""

    at: float
    message: tuple[bytes, ...]


@dataclass(slots=True)
class Outcome:
    """The outcome of an arrival; instants are seconds from the start of the run.

    `status` is None as long as there is no answer; `failure` says why there will be none.
    """

    at: float
    message: tuple[bytes, ...]
    lag: float
    done: float = math.nan
    status: int | None = None
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was answered with 200."""
        return self.status == 200

    @property
    def latency(self) -> float:
        """The seconds from when it was due until the answer; infinite if that is not 200."""
        return self.done - self.at if self.ok else math.inf

    @property
    def was_left(self) -> bool:
        """Whether the client sent it, and gave up before there was an answer."""
        return self.failure == UNANSWERED

    def __str__(self) -> str:
        """Return the outcome in a few words."""
        return self.failure if self.status is None else str(self.status)


def latency_ms(outcomes: Iterable[Outcome], percent: float) -> float:
    """Return a percentile of the latencies, in milliseconds."""
    return percentile([outcome.latency for outcome in outcomes], percent) * 1e3


def lag_ms(outcomes: Iterable[Outcome]) -> float:
    """Return the 99th percentile of how late the client itself was, in milliseconds."""
    return percentile([outcome.lag for outcome in outcomes], 99) * 1e3


def failures(outcomes: Iterable[Outcome]) -> Counter[str]:
    """Count the requests that were not answered with 200, by their outcome."""
    return Counter(str(outcome) for outcome in outcomes if not outcome.ok)
