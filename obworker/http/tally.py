"""How many responses a process has sent, by class, and how long its requests took. Pure.

A server counts into one of these and hands it to its monitor with every beat, a new one taking its
place: so to count is to add to plain numbers, and they are told of only a few times a second.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

CODES = ("2xx", "3xx", "4xx", "5xx")
# From a call that only computes to a long stream; each is a series for every slot.
BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BUCKETS = (*map(str, BOUNDS), "+Inf")
"""What Prometheus calls them: each by the longest time that is in it."""


class Tally:
    """Counts responses and times; only for who holds the wheel.

    `times` has how long each request took that was in predict. They are looked at when somebody
    asks, all in a row: a request pays for no more than to note its own.
    """

    __slots__ = ("_by_hundred", "times")

    def __init__(self) -> None:
        self._by_hundred = [0] * 10
        self.times = array("d")  # a quarter of what a list of so many would take

    def answered(self, status: int) -> None:
        """Count a response."""
        self._by_hundred[status // 100] += 1

    @property
    def responses(self) -> tuple[int, ...]:
        """How many there were of each of CODES; what is unknown is an error (RFC 9110 15)."""
        _, _, ok, redirection, client, *server = self._by_hundred
        return ok, redirection, client, sum(server)

    @property
    def buckets(self) -> list[int]:
        """How many took as long as each of BUCKETS says, and longer than the one before."""
        counts = [0] * len(BUCKETS)
        for seconds in self.times:
            counts[bisect_left(BOUNDS, seconds)] += 1
        return counts

    @property
    def seconds(self) -> float:
        """How long all of them took together."""
        return sum(self.times)
