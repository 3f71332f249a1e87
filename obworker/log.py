"""Logs: one line an event on standard error, one line a request on standard output.

On a terminal a line is what a person wants to read; elsewhere it has time, process and level.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

TERMINAL_FORMAT = "%(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)-7s [%(process)d] %(message)s"

_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")


class _Formatter(logging.Formatter):
    """Names the level only where it is not plain information."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno == logging.INFO else f"{record.levelname.lower()}: {line}"


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send the log of this process to `stream` (standard error), from `level` on."""
    stream = stream or sys.stderr
    output = logging.StreamHandler(stream)
    output.setFormatter(
        _Formatter(TERMINAL_FORMAT) if stream.isatty() else logging.Formatter(FILE_FORMAT)
    )
    logger = logging.getLogger("obworker")
    logger.handlers[:] = [output]
    logger.setLevel(level.upper())
    logger.propagate = False


def access_line(
    client: str, when: str, request_line: str, status: int, sent: int, duration: float
) -> str:
    """Format a request as the access log shows it; `sent` is bytes, `duration` seconds."""
    return f'{client} [{when}] "{request_line}" {status} {sent} {duration * 1000:.1f}ms\n'


def safe_id(text: str) -> str:
    """Return what a client calls its request where a line or a header can hold it, else nothing."""
    return text if text and _SAFE_ID.fullmatch(text) else ""
