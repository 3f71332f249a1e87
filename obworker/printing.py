"""Standard output and standard error as they should be in a server: nothing fails by them.

A print raises where the disk is full, where who read the output has gone, or where the encoding has
no place for a character. What predict prints would then fail the request, and what __init__ prints
would keep a crashed worker from coming back. So what cannot be written is lost, and what cannot be
encoded is escaped.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# The descriptors: what sys.stdout and sys.stderr are, the user's code may choose.
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


class _Lossy(io.FileIO):
    """A file that takes everything and loses what it cannot keep."""

    def write(self, part: ReadableBuffer, /) -> int:
        """Write what can be written of `part`."""
        written = None
        with contextlib.suppress(OSError):
            written = super().write(part)  # None: it would have to wait
        return memoryview(part).nbytes if written is None else written


class _Kept(io.TextIOWrapper):
    """A stream that is there to the end, as its descriptor is: it is not the user's alone."""

    def close(self) -> None:
        """Write what waits, and no more."""
        self.flush()


def never_fail() -> None:
    """Let no print of this process fail, unless somebody has put another stream in its place.

    Standard output is written at each line's end, as standard error is: what predict prints is to
    be seen when it happens, and not lost with a killed process.
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
    """Have /dev/null for those of the first three descriptors that are closed.

    Otherwise a socket would get such a number, and whatever is printed after that.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        os.set_inheritable(opened, True)
    os.close(opened)
    sys.stdout = sys.stdout or _open(STANDARD_OUTPUT)
    sys.stderr = sys.stderr or _open(STANDARD_ERROR)


def _open(descriptor: int) -> TextIO:
    return open(descriptor, "w", closefd=False)
