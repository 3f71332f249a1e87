"""The log: one line an event on standard error, or in a file.

On a terminal a line is what a person wants to read; elsewhere it has time, process and level. What
is logged on behalf of a request has its id.

With a file for the log, that file *is* standard error: the master points its descriptor there and
every child inherits it. So faulthandler, C libraries and the interpreter's last words land there,
too, which no logging module sees. Files are opened with O_APPEND and get each line in a single
write, so any number of processes write to one and no lines mix (write(2)).

To rotate, a file is renamed and each process opens the old name again. It does so by dup2(2) onto
the descriptors it has, so nobody who writes has to know.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO

from obworker.errors import UsageError
from obworker.printing import STANDARD_ERROR, STANDARD_OUTPUT, never_fail

if TYPE_CHECKING:
    from types import TracebackType

    from obworker.settings import Settings

    SysExcInfo = (
        tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    )

NAME = "obworker"

logger = logging.getLogger("obworker.log")

TERMINAL_FORMAT = "%(request)s%(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)-7s [%(process)d] %(request)s%(message)s"

# O_NONBLOCK: a FIFO that nobody reads is an error, and holds up no process (fifo(7)).
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
MODE = 0o644


_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_current_id: ContextVar[str] = ContextVar("obworker_request_id", default="")


def request_id() -> str:
    """Return the id of the request that is being served, which is empty outside of one.

    A thread that you start belongs to the request if it runs in a copy of its context
    (`contextvars.copy_context().run`).
    """
    return _current_id.get()


# Says which request the current context serves.
set_request_id = _current_id.set


@contextlib.contextmanager
def about_request(id_: str) -> Iterator[None]:
    """Log on behalf of a request, where its own context is not at hand."""
    token = _current_id.set(id_)
    try:
        yield
    finally:
        _current_id.reset(token)


def traceback_of(error: BaseException | None, step: TracebackType | None) -> str:
    """Format `error` as Python does, from `step` on; without its message where that fails."""
    try:
        return "".join(traceback.format_exception(None, error, step))
    except Exception as trouble:  # noqa: BLE001  # its attributes are the user's: a __getattr__
        frames = "".join(traceback.format_tb(step))
        kind = f"{type(error).__qualname__}: cannot be shown, it raises {type(trouble).__name__}"
        return f"Traceback (most recent call last):\n{frames}{kind}\n"


class _Formatter(logging.Formatter):
    """Names the request."""

    def format(self, record: logging.LogRecord) -> str:
        id_ = request_id()
        record.__dict__["request"] = f"[{id_}] " if id_ else ""
        return super().format(record)

    def formatException(self, ei: SysExcInfo) -> str:  # noqa: N802  # logging's name
        """Show what was raised, whatever it is."""
        return traceback_of(ei[1], ei[2]).rstrip("\n")


class _TerminalFormatter(_Formatter):
    """Names the level only where it is not plain information."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno == logging.INFO else f"{record.levelname.lower()}: {line}"


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send the log of this process to `stream` (standard error), from `level` on.

    Messages of other loggers go there, too, unless somebody has said where they are to go; but
    not what helps to debug them.
    """
    never_fail()
    enable_loggers()
    stream = stream or sys.stderr
    logging.lastResort = _output(stream)
    logging.lastResort.setLevel(logging.INFO)
    ours = logging.getLogger(NAME)
    ours.handlers[:] = [_output(stream)]
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
    """Say whether a person reads it; what predictor.py has put in its place may not know."""
    return hasattr(stream, "isatty") and stream.isatty()


def enable_loggers() -> None:
    """Enable our loggers again, after code of the user's has run.

    dictConfig and fileConfig of logging.config disable all that they do not name, unless they are
    told not to (disable_existing_loggers), and errors would be logged nowhere.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == NAME and isinstance(logger, logging.Logger):
            logger.disabled = False


def open_files(settings: Settings) -> None:
    """Begin to log to files, for this process and its children to come.

    Standard error becomes the log file. So does standard output, where prints go, unless it is the
    access log.

    Raises:
        UsageError: a file cannot be had.
    """
    try_files(settings)
    if settings.log_file is None:
        return
    try:
        append(settings.log_file, _descriptors_of_log(settings))
    except OSError as error:
        raise _cannot("--log-file", settings.log_file, error) from error


def try_files(settings: Settings) -> None:
    """Find out whether the files can be had that processes to come are to log to.

    Raises:
        UsageError: one cannot be had.
    """
    if settings.access_log and settings.access_log_file is not None:
        os.close(open_log("--access-log-file", settings.access_log_file))
    if settings.log_file is not None:
        os.close(open_log("--log-file", settings.log_file))


def reopen_files(settings: Settings) -> None:
    """Go on in a new log file, or in another that is asked for by now; what fails is logged.

    Every process does it for itself; one that has an AccessLog calls its `reopen`, too.
    """
    if settings.log_file is not None:
        append_again("--log-file", settings.log_file, _descriptors_of_log(settings))


def _descriptors_of_log(settings: Settings) -> tuple[int, ...]:
    access_log_on_output = settings.access_log and settings.access_log_file is None
    return (STANDARD_ERROR,) if access_log_on_output else (STANDARD_OUTPUT, STANDARD_ERROR)


def append(path: str, descriptors: tuple[int, ...]) -> None:
    """Point descriptors at the end of a file.

    Raises:
        OSError: it cannot be had.
    """
    opened = _open(path)
    for descriptor in descriptors:
        os.dup2(opened, descriptor, inheritable=descriptor <= STANDARD_ERROR)
    os.close(opened)


def open_log(option: str, path: str) -> int:
    """Open a file to append to; `option` is what named it.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        return _open(path)
    except OSError as error:
        raise _cannot(option, path, error) from error


def _open(path: str) -> int:
    opened = os.open(path, APPEND, MODE)
    os.set_blocking(opened, True)
    return opened


def append_again(option: str, path: str, descriptors: tuple[int, ...]) -> None:
    """Point descriptors at the end of a file that was renamed; what fails is logged."""
    try:
        append(path, descriptors)
    except OSError as error:
        logger.error("%s; the old file stays in use", _cannot(option, path, error))


def _cannot(option: str, path: str, error: OSError) -> UsageError:
    return UsageError(f"{option}: cannot append to {path}: {error.strerror}")


def safe_id(text: str) -> str:
    """Return what a client calls its request where a line or a header can hold it, else nothing."""
    return text if text and _SAFE_ID.fullmatch(text) else ""
