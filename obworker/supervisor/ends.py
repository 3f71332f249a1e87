"""Finds out how workers ended, and reports it to the log, the scoreboard and the master."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable

from obworker.errors import BootError, ObworkerError, RunError
from obworker.supervisor import exits
from obworker.supervisor.links import Link
from obworker.supervisor.messages import Failed
from obworker.supervisor.oom import OomKills
from obworker.supervisor.rollout import Outcome
from obworker.supervisor.scoreboard import Cause, Scoreboard, State
from obworker.supervisor.slots import Seat
from obworker.supervisor.table import End, Table

logger = logging.getLogger("obworker.master")

CONSEQUENCES = {
    Outcome.GAVE_UP: "giving up",
    Outcome.DROPPED: "giving the new code up",
    Outcome.HELD: "its device is in quarantine",
    Outcome.YIELDED: "there is no room beside the old worker, which goes first from now on",
}
# How Python, PyTorch, onnxruntime and CUDA report a lack of memory, and CUDA a GPU that takes no
# second process (nvidia-smi(1), compute mode EXCLUSIVE_PROCESS).
NO_ROOM = (
    *("memoryerror", "out of memory", "out_of_memory", "failed to allocate memory"),
    "busy or unavailable",
)


class Ends:
    """Accounts for ends of workers; the callbacks are for those that end, or may end, more."""

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
        """Read how often the kernel has killed for memory; call it before processes are reaped."""
        self._oom.look(time.monotonic())

    def exited(self, seat: Seat, code: int, link: Link) -> None:
        """Account for a worker that was reaped; `link` has what was known before."""
        now, failure, was_ready = time.monotonic(), link.failure, seat.ready_at is not None
        who, when = f"worker {seat.slot} (pid {seat.pid})", self._when(seat, now)
        was_asked_for = seat.expected or self._table.stopping
        was_killed = seat.state is State.KILLING and not link.hung_up
        is_oom = not was_killed and self.was_killed_for_memory(code)
        how = failure.message if failure else link.reason + exits.describe(code, oom=is_oom)
        cause = exits.cause(code, was_ready=was_ready, known=link.cause, is_oom=is_oom)
        self._board.seat(seat.slot, seat.number).clear()
        end = self._table.exited(
            seat,
            now,
            certain=failure is not None and failure.exit_code != RunError.exit_code,
            no_room=is_oom or _lacks_room(failure),
            device_lost=cause is Cause.DEVICE,
        )
        if failure is not None and failure.traceback:
            logger.error("%s", failure.traceback.rstrip())
        self._tell_all(seat, who, f"{how} {when}", cause, end, failure)
        if end.outcome is Outcome.EXPECTED and was_asked_for:
            logger.info("%-10s %s", f"worker {seat.slot}", "stopped" if code == 0 else how)

    def not_made(self, seat: Seat, why: str) -> None:
        """Account for a worker that was never made."""
        end = self._table.exited(seat, time.monotonic())
        self._tell_all(seat, f"worker {seat.slot}", why, Cause.BOOT, end, None)

    def _tell_all(
        self, seat: Seat, who: str, how: str, cause: Cause, end: End, failure: Failed | None
    ) -> None:
        """Report an unexpected end to the log, the scoreboard and the master."""
        if end.outcome is Outcome.EXPECTED:
            return
        self.note(seat, cause, how, time.monotonic())
        self.tell(who, how, end, failure)
        if seat.ready_at is None:
            self._on_boot_failed(seat.generation, seat.slot, how)

    def note(self, seat: Seat, cause: Cause, how: str, now: float) -> None:
        """Note an unexpected end on the scoreboard, for people."""
        self._board.slot(seat.slot).note_exit(cause, how, now)

    def tell(self, who: str, how: str, end: End, failure: Failed | None) -> None:
        """Log an unexpected end, and tell the master what follows."""
        if end.outcome is Outcome.EXPECTED:
            return
        then = f"replacing it in {end.wait:.1f} s" if end.wait else "replacing it"
        logger.error("%s: %s; %s", who, how, CONSEQUENCES.get(end.outcome, then))
        if end.outcome is Outcome.DROPPED:
            self._on_dropped(failure.message if failure else f"{who} {how}")
        elif end.outcome is Outcome.GAVE_UP:
            why = f"no worker became ready: the last one {how}"
            self._on_fatal(failure.error if failure else BootError(why))

    def was_killed_for_memory(self, code: int) -> bool:
        """Whether the OOM killer ended the process with that exit code; ask once for each end."""
        return code == -signal.SIGKILL and self._oom.explains_one()

    def _when(self, seat: Seat, now: float) -> str:
        """Say how long the worker had served, and which request it had."""
        if seat.ready_at is None:
            return "while it booted"
        row = self._board.seat(seat.slot, seat.number)
        doing = f", in {row.describe_request(now)}" if row.in_flight else ""
        return f"after {now - seat.ready_at:.1f} s of service{doing}"


def _lacks_room(failure: Failed | None) -> bool:
    """Whether a predictor could not be built for lack of room, on the machine or on a GPU."""
    text = failure.message.lower() if failure else ""
    return any(sign in text for sign in NO_ROOM)
