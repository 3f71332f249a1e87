"""Turns the scoreboard into a verdict on the service, and into the whole report. Pure.

What is not known, or does not exist, is None.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from obworker.http.tally import BUCKETS, CODES
from obworker.supervisor.lapse import NONE, Lapse
from obworker.supervisor.readings import readings
from obworker.supervisor.scoreboard import Cause, Header, Phase, Scoreboard, SeatRow, SlotRow, State
from obworker.supervisor.slots import HAS_PROCESS, VACANT

Report = dict[str, Any]


class Status(enum.Enum):
    """The status of the service in a word."""

    OK = "ok"
    DEGRADED = "degraded"  # ready, but a worker is missing
    UNREADY = "unready"  # too few workers serve
    STARTING = "starting"
    STOPPING = "stopping"


@dataclass(frozen=True)
class Standing:
    """The facts for a verdict, read once so that they are consistent.

    `held` are the devices in quarantine; `still` is for how long the master has done nothing.
    """

    phase: Phase
    serving: int
    wanted: int
    needed: int
    held: tuple[str, ...] = ()
    still: float = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether requests can be sent here."""
        return self.status in (Status.OK, Status.DEGRADED)

    @property
    def status(self) -> Status:
        """The status in a word."""
        if self.phase is Phase.STARTING:
            return Status.STARTING
        if self.phase is Phase.STOPPING:
            return Status.STOPPING
        if self.serving < self.needed:
            return Status.UNREADY
        return Status.OK if self.serving >= self.wanted else Status.DEGRADED

    @property
    def reason(self) -> str | None:
        """Why it is not ready; None if it is."""
        if self.is_ready:
            return None
        if self.phase is Phase.STOPPING:
            return "obworker is stopping"
        workers = f"{self.serving} of {self.wanted} workers ready, {self.needed} needed"
        if self.held:
            workers += f"; in quarantine: {', '.join(self.held)}"
        if self.still:
            workers += f"; the master has stood still for {self.still:.0f} s"
        return f"obworker is starting: {workers}" if self.phase is Phase.STARTING else workers


def standing(board: Scoreboard, lapse: Lapse = NONE) -> Standing:
    """Read the facts for a verdict."""
    header = board.header
    return Standing(
        phase=Phase(header.phase),
        serving=board.count_serving(lapse.ended),
        wanted=header.wanted,
        needed=max(1, header.min_ready),
        held=_held(board),
        still=lapse.seconds,
    )


def _held(board: Scoreboard) -> tuple[str, ...]:
    """Return the devices in quarantine, each once."""
    slots = (board.slot(index) for index in range(board.header.slots))
    return tuple(dict.fromkeys(slot.read_text("device") for slot in slots if slot.quarantine))


def summary(stands: Standing) -> Report:
    """Return the short answer to "is it ready?"."""
    return {
        "status": stands.status.value,
        "ready": stands.is_ready,
        "reason": stands.reason,
    }


def report(board: Scoreboard, now: float, lapse: Lapse = NONE) -> Report:
    """Return the whole report; times are seconds until `now`."""
    header, stands = board.header, standing(board, lapse)
    return {
        **summary(stands),
        "phase": stands.phase.name.lower(),
        "model": header.read_text("label") or None,
        "address": header.read_text("address") or None,
        "pid": header.master_pid or None,
        "uptime": _since(header.started_at, now),
        "generation": header.generation or None,
        "reloads": header.reloads,
        "reload_failure": header.read_text("reload_failure") or None,
        "workers": {
            "ready": stands.serving,
            "wanted": stands.wanted,
            "needed": stands.needed,
        },
        "queue": _queue(header),
        "slots": [
            _slot(board, index, now, lapse.ended)
            for index in range(header.slots)
            if index < stands.wanted or _occupied(board, index)
        ],
        "gpus": [{**sensed._asdict(), "slots": slots} for sensed, slots in readings(board, now)],
    }


def _queue(header: Header) -> Report | None:
    if header.queued < 0:
        return None
    return {"waiting": header.queued, "limit": header.queue_limit}


def _occupied(board: Scoreboard, slot: int) -> list[SeatRow]:
    """Return the seats that have a process or wait for one, the oldest first."""
    rows = [row for row in board.seats(slot) if row.state not in VACANT]
    return sorted(rows, key=lambda row: (row.state == State.BACKOFF, row.spawned_at))


def _slot(board: Scoreboard, index: int, now: float, ended: Collection[int]) -> Report:
    row, occupied = board.slot(index), _occupied(board, index)
    last_exit = row.read_text("last_exit")
    return {
        "slot": index,
        "device": row.read_text("device") or None,
        **_process(occupied[0] if occupied else board.seat(index, 0), now, ended),
        "quarantine": _quarantine(row, now),
        "requests": sum(seat.requests for seat in board.seats(index)),
        "no_memory": sum(seat.no_memory for seat in board.seats(index)),
        "responses": _counts(CODES, [seat.responses for seat in board.seats(index)]),
        "request_seconds": _request_seconds(board.seats(index)),
        "restarts": row.restarts,
        "causes": {cause.name.lower(): row.exits[cause] for cause in Cause if row.exits[cause]},
        "last_exit": (
            {"text": last_exit, "ago": _since(row.last_exit_at, now)} if last_exit else None
        ),
        "replacement": _process(occupied[1], now, ended) if len(occupied) > 1 else None,
    }


def _request_seconds(seats: Sequence[SeatRow]) -> Report:
    """Return the histogram of request times; each request is in one bucket."""
    return {
        "sum": round(sum(seat.seconds for seat in seats), 3),
        "buckets": _counts(BUCKETS, [seat.buckets for seat in seats]),
    }


def _counts(names: Sequence[str], columns: Iterable[Iterable[int]]) -> dict[str, int]:
    """Add up the counts of a slot's seats; zeros are left out."""
    totals = map(sum, zip(*columns, strict=True))
    return {name: total for name, total in zip(names, totals, strict=True) if total}


def _quarantine(row: SlotRow, now: float) -> Report | None:
    """Return why a slot's device is in quarantine, and for how long."""
    if not row.quarantine:
        return None
    left = round(max(0.0, row.quarantined_until - now), 1)
    return {"reason": row.read_text("quarantine"), "left": left}


def _process(row: SeatRow, now: float, ended: Collection[int]) -> Report:
    """Describe the process of a seat; the row still has the pid after its end."""
    state = State.REAPED if row.pid in ended else State(row.state)
    lives = state in HAS_PROCESS
    return {
        "state": state.name.lower(),
        "pid": row.pid or None if lives else None,
        "generation": row.generation or None if lives else None,
        "uptime": _since(row.ready_at, now) if lives else None,
        "in_flight": row.in_flight if lives else 0,
        "waiting": row.waiting if lives else 0,
        "request": _request(row, now) if lives and row.in_flight else None,
    }


def _request(row: SeatRow, now: float) -> Report:
    """Describe the request with the first deadline."""
    return {
        "line": row.read_text("request_line") or None,
        "age": _since(row.begun_at, now),
        "id": row.read_text("request_id") or None,
    }


def _since(instant: float, now: float) -> float | None:
    return round(max(0.0, now - instant), 1) if instant else None
