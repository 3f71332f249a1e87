"""Starts a new Python process of ours, independent of the working directory."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from obworker.supervisor import linux


def python(statement: str) -> list[str]:
    """Return the command line of a Python that runs one statement of ours.

    ``-m`` would put the working directory into sys.path before the standard library, and a model
    may have a queue.py. So does ``-c``, but there the entry can be removed before any import.
    """
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path[:] = [p for p in sys.path if p] + [{root!r}]; {statement}"
    return [sys.executable, *_flags(), "-c", code]


def spawn(statement: str, environ: Mapping[str, str], descriptors: Collection[int]) -> int:
    """Run one statement of ours in a session of its own, with some descriptors; return the pid.

    The signals that would end it before it has handlers are blocked until it unblocks them.

    Raises:
        OSError: the process cannot be made.
    """
    command = python(statement)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        held = [signal.SIGUSR1, linux.DUMP_SIGNAL]
        return os.posix_spawn(command[0], command, environ, setsid=True, setsigmask=held)
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)


def _flags() -> list[str]:
    """Return the flags of this Python that affect how code runs: -O, -W and -X."""
    extensions = sys._xoptions.items()  # noqa: SLF001 documented, and there is no other way
    return [
        *["-O"] * sys.flags.optimize,
        *(f"-W{choice}" for choice in sys.warnoptions),
        *(f"-X{name}" if value is True else f"-X{name}={value}" for name, value in extensions),
    ]
