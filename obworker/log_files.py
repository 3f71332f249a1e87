"""Log files: how they are opened, and opened again when they have been renamed.

If the log is a file, that file *is* standard error: the master points the descriptor to it, and
every child inherits that. So the output of faulthandler, of C libraries and of a crashing
interpreter is in the file, too. Files are opened with O_APPEND and each line is one write, so many
processes can write to a file without mixing lines (write(2)).

For a rotation the file is renamed, and each process opens the old name again, by dup2(2) onto its
descriptors: whatever writes to these goes on as before.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from obworker.errors import UsageError
from obworker.printing import STANDARD_ERROR, STANDARD_OUTPUT

if TYPE_CHECKING:
    from obworker.settings import Settings

logger = logging.getLogger("obworker.log")

# O_NONBLOCK: to open a FIFO that nobody reads is an error, instead of blocking (fifo(7)).
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
MODE = 0o644


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
