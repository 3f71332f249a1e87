"""The readings of the GPUs' sensors: written by the admin process, read by all. Pure.

A number that a driver does not know is None, and readings that are too old are not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from obworker.supervisor.scoreboard import GpuRow, Scoreboard

# An older reading says nothing about now: the driver hangs, or no process reads the sensors.
STALE_AFTER = 30.0


class Sensed(NamedTuple):
    """One reading of the GPU with that index, or of a MIG instance on it.

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
    """Publish the latest readings, and drop those of GPUs that are not there any more."""
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
    """Yield the latest reading of each GPU that slots have, with those slots."""
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
    """Whether this GPU is among a slot's devices, in the form of Device.label."""
    return any(_names(token, sensed) for token in device.partition(" ")[2].split(",") if token)


def _names(token: str, sensed: Sensed) -> bool:
    return int(token) == sensed.gpu if token.isdecimal() else sensed.uuid.startswith(token)


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number
