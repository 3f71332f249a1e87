"""Formats the lines of the access log, for people or for programs. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import orjson

# W3C Trace Context 3.2.2
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
# Characters that could end a line, or a quoted part of it: clients choose what is in there.
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


class AccessRecord(NamedTuple):
    """A request that has ended; one that could not be parsed has no method and no target.

    `time` is the POSIX time of its end, `sent` the size of the response's body. `duration` is the
    time from the whole request to the end of the response; `queued` and `predict` are parts of it.
    `traceparent` is the header field.
    """

    time: float
    client: str
    method: str
    target: bytes
    protocol: str
    status: int
    sent: int
    request_id: str = ""
    queued: float = 0.0
    predict: float = 0.0
    duration: float = 0.0
    traceparent: str = ""


def text_line(record: AccessRecord, slot: int | None) -> bytes:
    """Format a record for people; times are in milliseconds."""
    moment, zone = _local_time(int(record.time))
    line = f"{record.method} {record.target.decode('latin-1')} {record.protocol}"
    request = escape(line) if record.method else "-"
    return (
        f"{escape(record.client) or '-'} [{moment}{zone}] "
        f'"{request}" {record.status} {record.sent} {record.duration * 1000:.1f}ms '
        f"queued={record.queued * 1000:.1f}ms predict={record.predict * 1000:.1f}ms "
        f"slot={'-' if slot is None else slot} id={record.request_id or '-'}\n"
    ).encode("ascii", "backslashreplace")


def json_line(record: AccessRecord, slot: int | None) -> bytes:
    """Format a record for programs; times are in seconds."""
    second, part = divmod(record.time, 1)
    moment, zone = _local_time(int(second))
    fields = {
        "time": f"{moment}.{int(part * 1000):03}{zone[:3]}:{zone[3:]}",  # RFC 3339 5.6
        "client": record.client,
        "method": record.method,
        "target": record.target.decode("latin-1"),
        "protocol": record.protocol,
        "status": record.status,
        "bytes": record.sent,
        "duration": round(record.duration, 6),
        "queued": round(record.queued, 6),
        "predict": round(record.predict, 6),
        "slot": slot,
        "request_id": record.request_id,
        "trace_id": trace_id(record.traceparent),
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


FORMATS: dict[str, Callable[[AccessRecord, int | None], bytes]] = {
    "text": text_line,
    "json": json_line,
}


def escape(text: str) -> str:
    r"""Write quotes, backslashes and what is not printable ASCII as ``\xNN``."""
    return _UNSAFE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def trace_id(traceparent: str) -> str | None:
    """Return the id of the trace of a request, if it has a valid one (W3C Trace Context 1)."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace, parent, more = match.groups()
    is_known = version != "ff" and not (version == "00" and more)
    return trace if is_known and trace.strip("0") and parent.strip("0") else None


@lru_cache(maxsize=8)
def _local_time(second: int) -> tuple[str, str]:
    """Return the local date and time, and the offset from UTC as +hhmm."""
    moment, _, zone = time.strftime("%Y-%m-%dT%H:%M:%S %z", time.localtime(second)).partition(" ")
    return moment, zone
