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
    return [sys.executable, "-c", code]
