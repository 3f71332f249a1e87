"""Tells truly how workers ended: to the log, to the scoreboard, and what follows to the master."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable

from obworker.errors import BootError, ObworkerError
from obworker.supervisor import exits
from obworker.supervisor.generations import error_of
from obworker.supervisor.messages import BootFailed, LoadFailed
from obworker.supervisor.oom import OomKills
from obworker.supervisor.rollout import Outcome
from obworker.supervisor.scoreboard import Cause, Scoreboard
from obworker.supervisor.slots import Seat
from obworker.supervisor.table import End, Table

logger = logging.getLogger("obworker.master")

Failure = BootFailed | LoadFailed
"""What a worker said of its end before it ended."""

CONSEQUENCES = {
    Outcome.GAVE_UP: "giving up",
    Outcome.DROPPED: "giving the new code up",
    Outcome.HELD: "its device is in quarantine",
    Outcome.YIELDED: "there is no room beside the old worker, which goes first from now on",
}
# How Python, PyTorch, onnxruntime and CUDA say that memory was short, and CUDA that a GPU takes no
# second process (nvidia-smi(1), compute mode EXCLUSIVE_PROCESS).
NO_ROOM = (
    *("memoryerror", "out of memory", "out_of_memory", "failed to allocate memory"),
    "busy or unavailable",
)


class Ends:
    """Accounts for ends; others learn of those that end, or may end, more than a worker."""

    def __init__(
        self,
        table: Table,
        board: Scoreboard,
        *,
        on_boot_failed: Callable[[int, int, str], None],
        on_dropped: Callable[[str], None],
        on_fatal: Callable[[ObworkerError], None],
    ) -> None:
        self._table = table
        self._board = board
        self._on_boot_failed = on_boot_failed
        self._on_dropped = on_dropped
        self._on_fatal = on_fatal
        self._oom = OomKills()

    def count_oom_kills(self) -> None:
        """Look how often the kernel killed for memory; called before processes are reaped."""
        self._oom.look(time.monotonic())

    def exited(
        self,
        seat: Seat,
        code: int,
        *,
        reason: str,
        failure: Failure | None,
        cause: Cause | None,
        was_killed: bool,
    ) -> None:
        """Account for a worker that was reaped.

        `reason` and `cause` are why it ended, where that is known; `was_killed` is whether we did
        that.
        """
        now, who = time.monotonic(), f"worker {seat.slot} (pid {seat.pid})"
        was_asked_for = seat.expected or self._table.stopping
        is_oom = not was_killed and self.was_killed_for_memory(code)
        how = failure.message if failure else reason + exits.describe(code, oom=is_oom)
        told = f"{how} {self._when(seat, now)}"
        was_ready = seat.ready_at is not None
        cause = exits.cause(code, was_ready=was_ready, known=cause, is_oom=is_oom)
        self._board.seat(seat.slot, seat.number).clear()
        end = self._table.exited(
            seat,
            now,
            certain=failure is not None,
            no_room=is_oom or _lacks_room(failure),
            device_lost=cause is Cause.DEVICE,
        )
        if failure is not None and failure.traceback:
            logger.error("%s", failure.traceback.rstrip())
        if end.outcome is not Outcome.EXPECTED:
            self.note(seat, cause, told, now)
            self.tell(who, told, end, failure)
            if not was_ready:
                self._on_boot_failed(seat.generation, seat.slot, told)
        elif was_asked_for:
            logger.info("%-10s %s", f"worker {seat.slot}", "stopped" if code == 0 else how)

    def not_made(self, seat: Seat, why: str) -> None:
        """Account for a worker that there never was."""
        now = time.monotonic()
        end = self._table.exited(seat, now)
        if end.outcome is not Outcome.EXPECTED:
            self.note(seat, Cause.BOOT, why, now)
            self.tell(f"worker {seat.slot}", why, end, None)
            self._on_boot_failed(seat.generation, seat.slot, why)

    def note(self, seat: Seat, cause: Cause, how: str, now: float) -> None:
        """Keep for people what an end was that nobody asked for."""
        self._board.slot(seat.slot).note_exit(cause, how, now)

    def tell(self, who: str, how: str, end: End, failure: Failure | None) -> None:
        """Log an end that nobody asked for, and pass on what it leads to."""
        if end.outcome is Outcome.EXPECTED:
            return
        then = f"replacing it in {end.wait:.1f} s" if end.wait else "replacing it"
        logger.error("%s: %s; %s", who, how, CONSEQUENCES.get(end.outcome, then))
        if end.outcome is Outcome.DROPPED:
            self._on_dropped(failure.message if failure else f"{who} {how}")
        elif end.outcome is Outcome.GAVE_UP:
            self._on_fatal(_fatal(failure, how))

    def was_killed_for_memory(self, code: int) -> bool:
        """Whether the kernel did that to the process that ended so; asked once for each."""
        return code == -signal.SIGKILL and self._oom.explains_one()

    def _when(self, seat: Seat, now: float) -> str:
        """Say how long it had served, and what it was doing."""
        if seat.ready_at is None:
            return "while it booted"
        row = self._board.seat(seat.slot, seat.number)
        doing = f", in {row.describe_request(now)}" if row.in_flight else ""
        return f"after {now - seat.ready_at:.1f} s of service{doing}"


def _lacks_room(failure: Failure | None) -> bool:
    """Whether a predictor could not be built for want of room, on the machine or on a GPU."""
    text = failure.message.lower() if failure else ""
    return any(sign in text for sign in NO_ROOM)


def _fatal(failure: Failure | None, how: str) -> ObworkerError:
    if isinstance(failure, LoadFailed):
        return error_of(failure)
    if failure is not None:
        return BootError(failure.message, failure.hint)
    return BootError(f"no worker became ready: the last one {how}")
