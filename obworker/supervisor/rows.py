"""A worker's part of the scoreboard: which request is in predict, and its deadline.

Theory of operation. The master judges a worker by the deadline in its row, even if the worker's
event loop cannot run. So the row must be right whenever predict runs, and is written by the thread
that enters predict, before it does. With several threads it shows the request with the first
deadline. There are no locks: fields are written in such an order that a reader never sees a
deadline without its request.
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
    """The monitor that writes a worker's row; making it clears this part of the row.

    The id and the line of the last request stay after its end; `begun_at` is 0 then.
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
        """Count a request, and show it if it has the first deadline."""
        self._cycles.add(cycle)
        self._row.in_flight = len(self._cycles)
        shown = self._shown
        if shown is None or cycle.deadline < shown.deadline:
            self._show(cycle)

    def extended(self, cycle: Cycle) -> None:
        """Show the new deadline, or another request that has the first deadline now.

        Deadlines only move to later, so for requests that are not shown nothing changes.
        """
        if cycle is self._shown:
            self._row.deadline = cycle.deadline
            self._show_first()

    def ended(self, cycle: Cycle) -> None:
        """Note the end of a request, before its answer is sent.

        A process that predict has forked may come here by an exception or sys.exit(). It has the
        worker's sockets, so it would answer the client, too, and serve others.
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
        """Note that the event loop runs, and count what was answered."""
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
        """Fill the row; the deadline last, so that it never belongs to another request.

        The line is mostly the same as before. An id is ASCII, so it can be cut anywhere.
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
