"""What a server tells its owner about the requests in predict, whoever that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obworker.http.cycle import Cycle
    from obworker.http.tally import Tally


class Monitor:
    """Follows what is in predict; as it is, without a word to anybody.

    It is called on every request's way, so it must be quick.

    Of a cycle it hears in order: `begun`, `extended` as often as it happens, `ended` once. Cycles
    tell it from several threads, but one at a time. What is answered at once, on the loop's thread,
    is not in predict.
    """

    def begun(self, cycle: Cycle) -> None:
        """Learn that predict was entered; `cycle.started` and `cycle.deadline` are set."""

    def extended(self, cycle: Cycle) -> None:
        """Learn that `cycle.deadline` has moved."""

    def ended(self, cycle: Cycle) -> None:
        """Learn that a request is over: answered, dropped, or given up at its deadline."""

    def queued(self, places: int) -> None:
        """Learn how many places in the queue only this process can give back."""

    def beat(self, now: float, tally: Tally) -> None:
        """Learn that the event loop turns, and what was answered since the last time.

        Called with every look at the deadlines, and when the server is closed.
        """


UNWATCHED = Monitor()
