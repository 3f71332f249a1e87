"""What the GPUs' sensors say: written by the admin process, read by all. Pure.

What a driver does not tell of a GPU is None, and what it has not told for a while is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from obworker.supervisor.scoreboard import GpuRow, Scoreboard

# Older than this, a reading says nothing of now: the driver hangs, or nobody reads any more.
STALE_AFTER = 30.0


class Sensed(NamedTuple):
    """One reading of a GPU, by index, or of a MIG instance of it.

    Memory is in bytes, utilisation in percent, the temperature in degrees Celsius.
    """

    gpu: int
    uuid: str
    name: str
    memory_used: float | None
    memory_total: float | None
    utilisation: float | None
    temperature: float | None


def write(board: Scoreboard, sensed: list[Sensed], now: float) -> None:
    """Show everybody what was read; what is there no more is forgotten."""
    for row, one in zip(board.gpus, sensed, strict=False):
        row.gpu = one.gpu
        row.write_text("uuid", one.uuid)
        row.write_text("name", one.name)
        row.memory_used, row.memory_total = _or_nan(one.memory_used), _or_nan(one.memory_total)
        row.utilisation, row.temperature = _or_nan(one.utilisation), _or_nan(one.temperature)
        row.read_at = now
    for row in board.gpus[len(sensed) :]:
        row.read_at = 0.0


def readings(board: Scoreboard, now: float) -> Iterator[tuple[Sensed, list[int]]]:
    """Yield the newest reading of each GPU that slots have, and those slots."""
    devices = [board.slot(index).read_text("device") for index in range(board.header.slots)]
    fresh = [_sensed(row) for row in board.gpus if row.read_at and now - row.read_at < STALE_AFTER]
    for sensed in fresh:
        if slots := [slot for slot, device in enumerate(devices) if _is_meant(sensed, device)]:
            yield sensed, slots


def _sensed(row: GpuRow) -> Sensed:
    numbers = (row.memory_used, row.memory_total, row.utilisation, row.temperature)
    used, total, utilisation, temperature = map(_or_none, numbers)
    names = row.read_text("uuid"), row.read_text("name")
    return Sensed(row.gpu, *names, used, total, utilisation, temperature)


def _is_meant(sensed: Sensed, device: str) -> bool:
    """Whether a slot's devices, as Device.label writes them, have this one."""
    return any(_names(token, sensed) for token in device.partition(" ")[2].split(",") if token)


def _names(token: str, sensed: Sensed) -> bool:
    return int(token) == sensed.gpu if token.isdecimal() else sensed.uuid.startswith(token)


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number
