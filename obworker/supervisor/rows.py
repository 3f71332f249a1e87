"""A worker's side of the scoreboard: which request is in predict, and until when it may be.

Theory of operation. The master judges a worker by the deadline in its row, also one whose event
loop cannot run: the row must be right whenever predict runs. So it is written by the very thread
that enters predict, before it does. With several threads the row shows the request whose deadline
comes first. No reader ever waits; what it may see half written is in an order that is never wrong:
a deadline is there only while its request is.
"""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING

from obworker.http.monitor import Monitor
from obworker.supervisor.forks import Origin
from obworker.supervisor.scoreboard import ID_BYTES, SeatRow

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Sequence

    from obworker.http.cycle import Cycle
    from obworker.http.tally import Tally


class RowMonitor(Monitor):
    """The monitor that writes a worker's row; making it clears the row's part.

    The id and the line of the last request stay when it is over: `begun_at` says whether it is.
    """

    def __init__(self, row: SeatRow) -> None:
        self._row = row
        self._origin = Origin("predict")
        self._cycles: set[Cycle] = set()
        self._shown: Cycle | None = None
        self._line = ""
        row.deadline, row.begun_at = math.inf, 0.0
        row.in_flight = 0
        row.write_text("request_id", "")
        row.write_text("request_line", "")

    def begun(self, cycle: Cycle) -> None:
        """Count a request in, and show it if it is the first to be over."""
        self._cycles.add(cycle)
        self._row.in_flight = len(self._cycles)
        shown = self._shown
        if shown is None or cycle.deadline < shown.deadline:
            self._show(cycle)

    def extended(self, cycle: Cycle) -> None:
        """Show the new deadline, or the request that is the first to be over now.

        Deadlines move one way, so of another than the one that is shown it changes nothing.
        """
        if cycle is self._shown:
            self._row.deadline = cycle.deadline
            self._show_first()

    def ended(self, cycle: Cycle) -> None:
        """Count a request out, before its answer is sent.

        A child that predict forked may come back here, by an exception or sys.exit(): with the
        worker's sockets and its epoll it would answer the client, too, and serve others.
        """
        self._origin.end_others()
        row, cycles = self._row, self._cycles
        cycles.discard(cycle)
        row.in_flight = len(cycles)
        row.requests += 1
        if not cycles:
            row.deadline, row.begun_at = math.inf, 0.0
            self._shown = None
        elif cycle is self._shown:
            self._show_first()

    def queued(self, places: int) -> None:
        """Show how many places have to be given back if the worker is killed."""
        self._row.waiting = places

    def beat(self, now: float, tally: Tally) -> None:
        """Note that the event loop turns, and count what was answered."""
        row = self._row
        row.beat = now
        _add(row.responses, tally.responses)
        _add(row.buckets, tally.buckets)
        row.seconds += tally.seconds

    def _show_first(self) -> None:
        first = min(self._cycles, key=attrgetter("deadline"))
        if first is not self._shown:
            self._show(first)

    def _show(self, cycle: Cycle) -> None:
        """Fill the row; the deadline last, so that it is never that of another request.

        The line is mostly what it was, and an id is ASCII, so that it can be cut anywhere.
        """
        row, line = self._row, cycle.request.head.line
        row.deadline = math.inf
        row.request_id = cycle.request_id[: ID_BYTES - 1].encode()
        if line != self._line:
            self._line = line
            row.write_text("request_line", line)
        row.begun_at = cycle.started or 0.0
        row.deadline = cycle.deadline
        self._shown = cycle


def _add(counts: ctypes.Array[ctypes.c_uint64], more: Sequence[int]) -> None:
    for index, count in enumerate(more):
        if count:
            counts[index] += count
