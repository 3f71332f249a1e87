"""What a server reports of its requests, to whoever owns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obworker.http.cycle import Cycle
    from obworker.http.tally import Tally


class Monitor:
    """Follows the requests that are in predict; this base class does nothing.

    It is called for every request, so it must be quick.

    For each cycle it gets `begun`, any number of `extended`, and `ended` once, in this order. Calls
    come from several threads, but one at a time. Requests that are answered at once, on the loop's
    thread, are not in predict.
    """

    def begun(self, cycle: Cycle) -> None:
        """Note that predict was entered; `cycle.started` and `cycle.deadline` are set."""

    def extended(self, cycle: Cycle) -> None:
        """Note that `cycle.deadline` has moved."""

    def ended(self, cycle: Cycle) -> None:
        """Note that a request is over: answered, dropped, or given up at its deadline."""

    def queued(self, places: int) -> None:
        """Note how many places in the queue only this process can give back."""

    def beat(self, now: float, tally: Tally) -> None:
        """Note that the event loop runs, and what was answered since the last call.

        Called several times a second, and when the server is closed.
        """


UNWATCHED = Monitor()
