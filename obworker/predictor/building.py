"""Runs the user's code that builds a predictor, and reports where it failed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from obworker.errors import BootError
from obworker.predictor.faults import kind_of
from obworker.predictor.traces import locate, summarise, user_traceback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def building(title: str, file: Path) -> Iterator[None]:
    """Turn whatever the user's code raises into an error to report.

    `title` is what is called, `file` where it is defined.

    Raises:
        BootError: it raised.
        DeviceError: it raised because the GPU is lost.
    """
    try:
        yield
    except BaseException as error:  # whatever it is, it is the user's code that raised it
        trace = user_traceback(error, file.parent)
        kind = kind_of(error, BootError)
        raise kind(explain(error, title, file), traceback=trace) from error


def explain(error: BaseException, title: str, file: Path) -> str:
    """Say in one line what `title` raised, and where."""
    place = locate(error, file.parent) or file.name
    if isinstance(error, SystemExit):
        return f"{place}: {title} called sys.exit({error.code!r})"
    return f"{place}: {title} raised {summarise(error)}"
