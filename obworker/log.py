"""How the log reads: one line an event on standard error, which may be a file (log_files.py).

On a terminal a line is what a person wants to read; elsewhere it has time, process and level. What
is logged on behalf of a request has its id.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, TextIO

from obworker.printing import never_fail
from obworker.request_context import request_id

if TYPE_CHECKING:
    from types import TracebackType

    SysExcInfo = (
        tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    )

NAME = "obworker"

TERMINAL_FORMAT = "%(request)s%(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)-7s [%(process)d] %(request)s%(message)s"


def traceback_of(error: BaseException | None, step: TracebackType | None) -> str:
    """Format `error` as Python does, from `step` on; without its message if that raises."""
    try:
        return "".join(traceback.format_exception(None, error, step))
    except Exception as trouble:  # noqa: BLE001  # from the user's class, such as a __getattr__
        frames = "".join(traceback.format_tb(step))
        kind = f"{type(error).__qualname__}: cannot be shown, it raises {type(trouble).__name__}"
        return f"Traceback (most recent call last):\n{frames}{kind}\n"


class _Formatter(logging.Formatter):
    """Adds the id of the request."""

    def format(self, record: logging.LogRecord) -> str:
        id_ = request_id()
        record.__dict__["request"] = f"[{id_}] " if id_ else ""
        return super().format(record)

    def formatException(self, ei: SysExcInfo) -> str:  # noqa: N802  # logging's name
        """Format any exception, even if its class does not allow it."""
        return traceback_of(ei[1], ei[2]).rstrip("\n")


class _TerminalFormatter(_Formatter):
    """Adds the level unless it is info."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno == logging.INFO else f"{record.levelname.lower()}: {line}"


def configure(level: str) -> None:
    """Send the log of this process, from `level` on, to standard error.

    Messages of other loggers go there, too, unless the user's code has configured logging; but no
    debug messages of theirs.
    """
    never_fail()
    enable_loggers()
    logging.lastResort = _output(sys.stderr)
    logging.lastResort.setLevel(logging.INFO)
    ours = logging.getLogger(NAME)
    ours.handlers[:] = [_output(sys.stderr)]
    ours.setLevel(level.upper())
    ours.propagate = False
    if not logging.root.handlers and logging.root.level == logging.WARNING:  # as Python starts
        logging.root.setLevel(max(ours.level, logging.INFO))


def _output(stream: TextIO) -> logging.Handler:
    output = logging.StreamHandler(stream)
    output.setFormatter(
        _TerminalFormatter(TERMINAL_FORMAT) if _is_terminal(stream) else _Formatter(FILE_FORMAT)
    )
    return output


def _is_terminal(stream: TextIO) -> bool:
    """Return whether it is a terminal; a replacement by predictor.py may have no isatty()."""
    return hasattr(stream, "isatty") and stream.isatty()


def enable_loggers() -> None:
    """Enable our loggers again, after code of the user's has run.

    dictConfig and fileConfig of logging.config disable all loggers that they do not name, unless
    disable_existing_loggers is false. Then our errors would not be logged.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == NAME and isinstance(logger, logging.Logger):
            logger.disabled = False
