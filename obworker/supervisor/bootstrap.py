"""How a fresh Python of ours is started, wherever the working directory is."""

from __future__ import annotations

import sys
from pathlib import Path


def python(statement: str) -> list[str]:
    """Return the command line of a Python that runs one statement of ours.

    ``-m`` would put the working directory, where a model may keep its own queue.py, in front of
    the standard library. So does ``-c``, but there the entry can be taken out before any import.
    """
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path[:] = [p for p in sys.path if p] + [{root!r}]; {statement}"
    return [sys.executable, *_flags(), "-c", code]


def _flags() -> list[str]:
    """Return what this Python was started with that changes how code runs: -O, -W and -X."""
    extensions = sys._xoptions.items()  # noqa: SLF001 documented, and there is no other way
    return [
        *["-O"] * sys.flags.optimize,
        *(f"-W{choice}" for choice in sys.warnoptions),
        *(f"-X{name}" if value is True else f"-X{name}={value}" for name, value in extensions),
    ]
