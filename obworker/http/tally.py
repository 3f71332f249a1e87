"""How many responses a process has sent, by class, and how long its requests took. Pure.

A server counts into a Tally, and with every beat hands it to its monitor and begins a new one. So
counting is adding to plain numbers, and shared memory is written a few times a second only.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

CODES = ("2xx", "3xx", "4xx", "5xx")
# Upper bounds, from short calls to long streams; each is a time series for every slot.
BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BUCKETS = (*map(str, BOUNDS), "+Inf")
"""The names that Prometheus gives the buckets."""


class Tally:
    """Counts responses and times; only for the thread that holds the wheel.

    `times` has the duration of each request that was in predict. They are sorted into buckets when
    the tally is read, so that a request only has to append its own.
    """

    __slots__ = ("_by_hundred", "times")

    def __init__(self) -> None:
        self._by_hundred = [0] * 10
        self.times = array("d")  # takes a quarter of the memory of a list

    def answered(self, status: int) -> None:
        """Count a response."""
        self._by_hundred[status // 100] += 1

    @property
    def responses(self) -> tuple[int, ...]:
        """The number of responses for each of CODES; unknown classes count as 5xx (RFC 9110 15)."""
        _, _, ok, redirection, client, *server = self._by_hundred
        return ok, redirection, client, sum(server)

    @property
    def buckets(self) -> list[int]:
        """The number of times in each of BUCKETS, without those in the ones before."""
        counts = [0] * len(BUCKETS)
        for seconds in self.times:
            counts[bisect_left(BOUNDS, seconds)] += 1
        return counts

    @property
    def seconds(self) -> float:
        """The sum of the times."""
        return sum(self.times)
