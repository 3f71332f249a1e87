"""The log: one line an event on standard error, or in a file.

On a terminal a line is what a person wants to read; elsewhere it has time, process and level. What
is logged on behalf of a request has its id.

If the log is a file, that file *is* standard error: the master points the descriptor to it, and
every child inherits that. So the output of faulthandler, of C libraries and of a crashing
interpreter is in the file, too. Files are opened with O_APPEND and each line is one write, so many
processes can write to a file without mixing lines (write(2)).

For a rotation the file is renamed, and each process opens the old name again, by dup2(2) onto its
descriptors: whatever writes to these goes on as before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

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

# O_NONBLOCK: to open a FIFO that nobody reads is an error, instead of blocking (fifo(7)).
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
MODE = 0o644


# Where a WSGI environ has the id that the client, or the platform in front, gave a request.
ID_FIELD, PLATFORM_ID_FIELD = "HTTP_X_REQUEST_ID", "HTTP_X_OPENBAYES_SERVING_REQUEST_ID"

_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_current_id: ContextVar[str] = ContextVar("obworker_request_id", default="")


def request_id() -> str:
    """Return the id of the current request; it is empty outside of a request.

    A thread that you start belongs to the request if it runs in a copy of its context
    (`contextvars.copy_context().run`).
    """
    return _current_id.get()


# Sets the id of the request in the current context.
set_request_id = _current_id.set


@contextlib.contextmanager
def about_request(id_: str) -> Iterator[None]:
    """Set the id of a request for what is logged meanwhile, outside of its context."""
    token = _current_id.set(id_)
    try:
        yield
    finally:
        _current_id.reset(token)


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


def open_files(settings: Settings) -> None:
    """Begin to log to files, for this process and its future children.

    Standard error becomes the log file. So does standard output, unless the access log goes there.

    Raises:
        UsageError: a file cannot be opened.
    """
    _try_access_log(settings)
    if settings.log_file is None:
        return
    try:
        append(settings.log_file, _descriptors_of_log(settings))
    except OSError as error:
        raise _cannot("--log-file", settings.log_file, error) from error


def try_files(settings: Settings) -> None:
    """Check that the log files can be opened, without logging to them.

    Raises:
        UsageError: one cannot be opened.
    """
    _try_access_log(settings)
    if settings.log_file is not None:
        os.close(open_log("--log-file", settings.log_file))


def _try_access_log(settings: Settings) -> None:
    if settings.access_log and settings.access_log_file is not None:  # the workers open it
        os.close(open_log("--access-log-file", settings.access_log_file))


def reopen_files(settings: Settings) -> None:
    """Open the log file again, after it was renamed or replaced by another; errors are logged.

    Every process has to call this; one with an AccessLog calls its `reopen`, too.
    """
    if settings.log_file is not None:
        append_again("--log-file", settings.log_file, _descriptors_of_log(settings))


def _descriptors_of_log(settings: Settings) -> tuple[int, ...]:
    access_log_on_output = settings.access_log and settings.access_log_file is None
    return (STANDARD_ERROR,) if access_log_on_output else (STANDARD_OUTPUT, STANDARD_ERROR)


def append(path: str, descriptors: tuple[int, ...]) -> None:
    """Make descriptors append to a file.

    Raises:
        OSError: it cannot be opened.
    """
    opened = _open(path)
    for descriptor in descriptors:
        os.dup2(opened, descriptor, inheritable=descriptor <= STANDARD_ERROR)
    os.close(opened)


def open_log(option: str, path: str) -> int:
    """Open a file to append to; `option` is the option that names it.

    Raises:
        UsageError: it cannot be opened.
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
    """Make descriptors append to a file that was renamed; errors are logged."""
    try:
        append(path, descriptors)
    except OSError as error:
        logger.error("%s; the old file stays in use", _cannot(option, path, error))


def _cannot(option: str, path: str, error: OSError) -> UsageError:
    return UsageError(f"{option}: cannot append to {path}: {error.strerror}")


def given_id(environ: Mapping[str, Any]) -> str:
    """Return the id that a request came with, or "" if it has none that is safe.

    An id is safe if it can be written to a line of the log or to a header.
    """
    given = (environ.get(field, "") for field in (ID_FIELD, PLATFORM_ID_FIELD))
    return next(filter(_SAFE_ID.fullmatch, given), "")
