"""Standard output and standard error that never raise.

A print raises if the disk is full, if the reader has gone, or if a character cannot be encoded. In
predict it would fail the request, and in __init__ it would keep a worker from being replaced. So
what cannot be written is lost, and what cannot be encoded is escaped.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Descriptors, as the user's code may replace sys.stdout and sys.stderr.
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


class _Lossy(io.FileIO):
    """A file whose writes never fail; what cannot be written is lost."""

    def write(self, part: ReadableBuffer, /) -> int:
        """Write `part` as far as possible."""
        written = None
        with contextlib.suppress(OSError):
            written = super().write(part)  # None if it would block
        return memoryview(part).nbytes if written is None else written


class _Kept(io.TextIOWrapper):
    """A stream that the user's code cannot close: others use it, too."""

    def close(self) -> None:
        """Flush, and do not close."""
        self.flush()


def never_fail() -> None:
    """Make standard output and error never raise, unless they were replaced already.

    Standard output is flushed after each line, as standard error is: so what predict prints is
    visible at once, and not lost with a process that is killed.
    """
    if sys.stdout is sys.__stdout__ and sys.__stdout__ is not None:
        sys.stdout = _lossy(sys.__stdout__)
    if sys.stderr is sys.__stderr__ and sys.__stderr__ is not None:
        sys.stderr = _lossy(sys.__stderr__)


def _lossy(stream: io.TextIOWrapper) -> TextIO:
    with contextlib.suppress(OSError):
        stream.flush()
    file = _Lossy(stream.fileno(), "w", closefd=False)
    file.name = stream.name
    return _Kept(
        file if stream.write_through else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="backslashreplace",  # as standard error has it (sys.stderr)
        newline="\n",
        line_buffering=True,
        write_through=stream.write_through,
    )


def open_closed() -> None:
    """Have the three standard streams, whatever whoever started us has closed."""
    open_closed_descriptors()
    sys.stdout = sys.stdout or _open(STANDARD_OUTPUT)
    sys.stderr = sys.stderr or _open(STANDARD_ERROR)


def open_closed_descriptors() -> None:
    """Open /dev/null in place of those of the first three descriptors that are closed.

    Otherwise a socket could get such a number, and what is printed would be written to it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        os.set_inheritable(opened, True)
    os.close(opened)


def _open(descriptor: int) -> TextIO:
    return open(descriptor, "w", closefd=False)
