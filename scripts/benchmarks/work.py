"""The work in benchmarks of latency: a predict that sleeps as long as its request says."""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING

from benchmarks import queueing
from benchmarks.load import json_head
from benchmarks.outcomes import Arrival

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PREDICTOR = """\
import time


class Predictor:
    def predict(self, json):
        time.sleep(json["seconds"])
        return {"ok": True}
"""


def message(seconds: float, path: str = "/", padding: bytes = b"") -> tuple[bytes, ...]:
    """Return a request to sleep so long, with padding in its body; `padding` is not copied."""
    start, end = f'{{"seconds":{seconds:.6f},"pad":"'.encode(), b'"}'
    length = len(start) + len(padding) + len(end)
    start = json_head(length, path) + start
    return (start, padding, end) if padding else (start + end,)


def steady(rate: float, seconds: float, service: float, seed: int) -> Iterator[Arrival]:
    """Yield Poisson arrivals for so many seconds, all with the same service time."""
    instants = queueing.poisson(rate, Random(seed))
    return arrivals(
        (instant, service)
        for instant in itertools.takewhile(lambda instant: instant < seconds, instants)
    )


def arrivals(
    jobs: Iterable[tuple[float, float]], path: str = "/", padding: bytes = b""
) -> Iterator[Arrival]:
    """Yield a request for each job: its arrival and its service time."""
    for instant, service in jobs:
        yield Arrival(instant, message(service, path, padding))
