"""Arrivals, service times, the ideal queue, and percentiles. No clock, no socket."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from random import Random

SIGMA = 1.0
"""Standard deviation of the logarithm of lognormal service times."""


def poisson(rate: float, source: Random) -> Iterator[float]:
    """Yield the instants, in seconds from 0, of an endless Poisson process."""
    instant = 0.0
    while True:
        instant += source.expovariate(rate)
        yield instant


def fixed(mean: float) -> Iterator[float]:
    """Yield the same service time for ever."""
    while True:
        yield mean


def lognormal(mean: float, source: Random) -> Iterator[float]:
    """Yield lognormal service times of that mean for ever."""
    mu = math.log(mean) - SIGMA**2 / 2
    while True:
        yield source.lognormvariate(mu, SIGMA)


def ideal_latencies(jobs: Iterable[tuple[float, float]], servers: int) -> list[float]:
    """Return each job's latency in one FIFO queue with so many servers and no overhead.

    A job is its arrival and its service time; jobs come in the order of arrival.
    """
    free_at = [0.0] * servers
    latencies = []
    for arrival, service in jobs:
        end = max(arrival, free_at[0]) + service
        heapq.heapreplace(free_at, end)
        latencies.append(end - arrival)
    return latencies


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least value that `percent` of all values do not exceed; NaN of none."""
    if not values:
        return math.nan
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]
