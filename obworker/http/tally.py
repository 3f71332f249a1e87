"""How many responses a process has sent, by class, and how long its requests took. Pure.

A server counts into one of these and hands it to its monitor with every beat, a new one taking its
place: so to count is to add to plain numbers, and they are told of only a few times a second.
"""

from __future__ import annotations

from bisect import bisect_left

CODES = ("2xx", "3xx", "4xx", "5xx")
# From a call that only computes to a long stream; each is a series for every slot.
BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BUCKETS = (*map(str, BOUNDS), "+Inf")
"""What Prometheus calls them: each by the longest time that is in it."""


class Tally:
    """Counts responses and times; only for who holds the wheel.

    `buckets` has how many requests took as long as each of BUCKETS says and longer than the one
    before, `seconds` how long all of them took together.
    """

    __slots__ = ("_by_hundred", "buckets", "seconds")

    def __init__(self) -> None:
        self._by_hundred = [0] * 10
        self.buckets = [0] * len(BUCKETS)
        self.seconds = 0.0

    def answered(self, status: int) -> None:
        """Count a response to what predict has not seen."""
        self._by_hundred[status // 100] += 1

    def served(self, status: int, seconds: float) -> None:
        """Count a request that was in predict, and the time that it took.

        To be in a bucket counts as 2xx: what is usual is counted once, which is cheaper.
        """
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds
        if status >= 300:
            self._by_hundred[status // 100] += 1
            self._by_hundred[2] -= 1

    @property
    def responses(self) -> tuple[int, ...]:
        """How many there were of each of CODES; what is unknown is an error (RFC 9110 15)."""
        _, _, ok, redirection, client, *server = self._by_hundred
        return ok + sum(self.buckets), redirection, client, sum(server)
