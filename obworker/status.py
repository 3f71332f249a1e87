"""The report as `obworker status` prints it for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]

HEADINGS = (
    *("SLOT", "STATE", "PID", "DEVICE", "UPTIME", "RSS MIB", "PSS MIB", "USS MIB"),
    *("REQUESTS", "IN FLIGHT", "RESTARTS", "LAST EXIT"),
)
GPU_HEADINGS = ("GPU", "NAME", "MEMORY", "UTILISATION", "TEMPERATURE", "SLOTS")
UNKNOWN = "-"
MIB, GIB = 1 << 20, 1 << 30


def describe(report: Report) -> str:
    """Return the text: first the service, then a line for each process and each GPU."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    rows += [row for slot in report["slots"] for row in _rows(slot)]
    return "\n".join([*_service(report), "", *_aligned(rows), *_gpus(report["gpus"])])


def _gpus(gpus: list[Report]) -> list[str]:
    return ["", *_aligned([GPU_HEADINGS, *map(_gpu, gpus)])] if gpus else []


def _gpu(gpu: Report) -> tuple[str, ...]:
    used, total = _amount(gpu["memory_used"]), _amount(gpu["memory_total"])
    busy, celsius = _with_unit(gpu["utilisation"], "%"), _with_unit(gpu["temperature"], " °C")
    slots = ", ".join(map(str, gpu["slots"]))
    return str(gpu["gpu"]), gpu["name"] or UNKNOWN, f"{used} of {total} GiB", busy, celsius, slots


def _amount(bytes_: float | None) -> str:
    return UNKNOWN if bytes_ is None else f"{bytes_ / GIB:.1f}"


def _with_unit(number: float | None, unit: str) -> str:
    return UNKNOWN if number is None else f"{number:.0f}{unit}"


def _service(report: Report) -> list[str]:
    workers = report["workers"]
    identity = (
        *(_text(report["model"]), _text(report["address"]), f"pid {_text(report['pid'])}"),
        *(f"generation {_text(report['generation'])}", f"up {duration(report['uptime'])}"),
    )
    lines = [
        "  ".join(identity),
        f"{report['status']}: {workers['ready']} of {workers['wanted']} workers ready",
    ]
    if report["reason"]:
        lines.append(f"not ready: {report['reason']}")
    if report["phase"] == "reloading":
        lines.append("a reload is on its way")
    if report["memory"]:
        lines.append(f"{_mebibytes(report['memory']['pss'])} MiB of memory in all processes")
    if report["reload_failure"]:
        lines.append(f"the last reload failed: {_one_line(report['reload_failure'])}")
    return [*lines, *_quarantines(report["slots"]), *_shortages_of_memory(report["slots"])]


def _quarantines(slots: list[Report]) -> list[str]:
    """Return a line for each device in quarantine."""
    held = {_text(slot["device"]): slot["quarantine"] for slot in slots if slot["quarantine"]}
    return [
        f"{device} is in quarantine for {duration(hold['left'])} more, or until a reload:"
        f" {_one_line(hold['reason'])}"
        for device, hold in held.items()
    ]


def _shortages_of_memory(slots: list[Report]) -> list[str]:
    short = [slot for slot in slots if slot["no_memory"]]
    if not short:
        return []
    times = ", ".join(f"{slot['no_memory']} in slot {slot['slot']}" for slot in short)
    return [f"memory was short, times: {times}"]


def _rows(slot: Report) -> list[tuple[str, ...]]:
    last_exit = slot["last_exit"]
    ended = UNKNOWN
    if last_exit is not None:
        ended = f"{_one_line(last_exit['text'])}, {duration(last_exit['ago'])} ago"
    index, device = str(slot["slot"]), _text(slot["device"])
    counts = str(slot["requests"]), _in_flight(slot), str(slot["restarts"]), ended
    rows: list[tuple[str, ...]] = [
        (index, *_process(slot), device, duration(slot["uptime"]), *_memory(slot), *counts)
    ]
    new = slot["replacement"]
    if new is not None:
        blank = "", _in_flight(new), "", ""
        uptime = duration(new["uptime"])
        rows.append((f"{index} new", *_process(new), device, uptime, *_memory(new), *blank))
    return rows


def _process(process: Report) -> tuple[str, str]:
    return process["state"], _text(process["pid"])


def _memory(process: Report) -> tuple[str, ...]:
    """Return its RSS, PSS and USS."""
    memory = process["memory"] or {}
    return tuple(_mebibytes(memory.get(kind)) for kind in ("rss", "pss", "uss"))


def _mebibytes(bytes_: int | None) -> str:
    return UNKNOWN if bytes_ is None else f"{bytes_ / MIB:.0f}"


def _in_flight(process: Report) -> str:
    """Return how many requests are in predict, and for how long."""
    request = process["request"]
    return str(process["in_flight"]) + (f" for {duration(request['age'])}" if request else "")


def _text(value: object) -> str:
    return UNKNOWN if value is None else str(value)


def _one_line(text: str) -> str:
    """Remove line breaks, which would break the table."""
    return " ".join(text.split())


def duration(seconds: float | None) -> str:
    """Write a time in its two largest units; below a minute in seconds."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if not hours:
        return f"{minutes}m{int(seconds) % 60:02}s"
    return f"{days}d{hours % 24:02}h" if days else f"{hours}h{minutes % 60:02}m"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
