"""Logs: one line an event on standard error, one line a request on standard output, or in files.

On a terminal a line is what a person wants to read; elsewhere it has time, process and level.

With a file for the log, that file *is* standard error: the master points its descriptor there and
every child inherits it. So faulthandler, C libraries and the interpreter's last words land there,
too, which no logging module sees. Files are opened with O_APPEND and get each line in a single
write, so any number of processes write to one and no lines mix (write(2)).

To rotate, a file is renamed and each process opens the old name again. It does so by dup2(2) onto
the descriptors it has, so nobody who writes has to know.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from typing import Protocol, TextIO

from obworker.errors import UsageError

logger = logging.getLogger("obworker.log")

TERMINAL_FORMAT = "%(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)-7s [%(process)d] %(message)s"

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
MODE = 0o644


class Destinations(Protocol):
    """The settings that say where the logs go."""

    @property
    def log_file(self) -> str | None:
        """Path of the log; None leaves it on standard error."""

    @property
    def access_log(self) -> bool:
        """Whether there is an access log."""

    @property
    def access_log_file(self) -> str | None:
        """Path of the access log; None leaves it on standard output."""


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
    ours = logging.getLogger("obworker")
    ours.handlers[:] = [output]
    ours.setLevel(level.upper())
    ours.propagate = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What predict prints is to be seen when it happens, and not lost with a killed process.
        sys.stdout.reconfigure(line_buffering=True)


def open_files(to: Destinations) -> None:
    """Begin to log to files, for this process and its children to come.

    Standard error becomes the log file. So does standard output, where prints go, unless it is the
    access log.

    Raises:
        UsageError: a file cannot be had.
    """
    _try_access_log(to)
    if to.log_file is None:
        return
    try:
        _append(to.log_file, _descriptors_of_log(to))
    except OSError as error:
        raise _cannot("--log-file", to.log_file, error) from error


def reopen_files(to: Destinations) -> None:
    """Go on in a new log file, after the old one was renamed; what fails is logged.

    Every process does it for itself; one that has an AccessLog calls its `reopen`, too.
    """
    if to.log_file is not None:
        _append_again("--log-file", to.log_file, _descriptors_of_log(to))


def _descriptors_of_log(to: Destinations) -> tuple[int, ...]:
    access_log_on_output = to.access_log and to.access_log_file is None
    return (STANDARD_ERROR,) if access_log_on_output else (STANDARD_OUTPUT, STANDARD_ERROR)


def _try_access_log(to: Destinations) -> None:
    """Open the access log, which workers will want, while there is somebody to tell."""
    if to.access_log and to.access_log_file is not None:
        AccessLog(to.access_log_file).close()


def _append(path: str, descriptors: tuple[int, ...]) -> None:
    """Point descriptors at the end of a file."""
    opened = os.open(path, APPEND, MODE)
    for descriptor in descriptors:
        os.dup2(opened, descriptor, inheritable=descriptor <= STANDARD_ERROR)
    os.close(opened)


def _append_again(option: str, path: str, descriptors: tuple[int, ...]) -> None:
    try:
        _append(path, descriptors)
    except OSError as error:
        logger.error("%s; the old file stays in use", _cannot(option, path, error))


def _cannot(option: str, path: str, error: OSError) -> UsageError:
    return UsageError(f"{option}: cannot append to {path}: {error.strerror}")


class AccessLog:
    """Where a process writes its lines of the access log: a file, or standard output."""

    def __init__(self, path: str | None) -> None:
        """Open the file.

        Raises:
            UsageError: it cannot be had.
        """
        self._path = path
        self._descriptor = STANDARD_OUTPUT
        self._failed = False
        if path is not None:
            try:
                self._descriptor = os.open(path, APPEND, MODE)
            except OSError as error:
                raise _cannot("--access-log-file", path, error) from error

    def write(self, line: str) -> None:
        """Write one line in a single write; after a failure nothing more is written."""
        if self._failed:
            return
        try:
            os.write(self._descriptor, line.encode(errors="backslashreplace"))
        except OSError as error:  # who read standard output has gone, or the disk is full
            self._failed = True
            name = self._path or "standard output"
            logger.warning("no access log from here on: %s: %s", name, error.strerror)

    def reopen(self) -> None:
        """Go on in a new file, after the old one was renamed; also where writing had failed."""
        self._failed = False
        if self._path is not None:
            _append_again("--access-log-file", self._path, (self._descriptor,))

    def close(self) -> None:
        """Close the file."""
        if self._path is not None:
            os.close(self._descriptor)


def access_line(
    client: str, when: str, request_line: str, status: int, sent: int, duration: float
) -> str:
    """Format a request as the access log shows it; `sent` is bytes, `duration` seconds."""
    return f'{client} [{when}] "{request_line}" {status} {sent} {duration * 1000:.1f}ms\n'


def safe_id(text: str) -> str:
    """Return what a client calls its request where a line or a header can hold it, else nothing."""
    return text if text and _SAFE_ID.fullmatch(text) else ""
