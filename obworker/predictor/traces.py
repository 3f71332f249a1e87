"""Finds the place of an exception in the user's code, and leaves out the frames before that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from obworker.log import traceback_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

LONGEST_MESSAGE = 300


def locate(error: BaseException, directory: Path) -> str | None:
    """Return ``file:line`` of the innermost place in `directory` that `error` passed through."""
    if isinstance(error, SyntaxError) and is_inside(error.filename, directory):
        return _place(str(error.filename), error.lineno or 0, directory)
    places = [
        _place(step.tb_frame.f_code.co_filename, step.tb_lineno, directory)
        for step in _steps(error.__traceback__)
        if is_inside(step.tb_frame.f_code.co_filename, directory)
    ]
    return places[-1] if places else None


def summarise(error: BaseException) -> str:
    """Return the type and the message of `error` in one line."""
    text = str(error.msg or "") if isinstance(error, SyntaxError) else message_of(error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if len(line) > LONGEST_MESSAGE:
        line = line[:LONGEST_MESSAGE] + "…"
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def message_of(error: BaseException) -> str:
    """Return str(error), or what Python shows if the user's class raises there."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001
        return "<exception str() failed>"


def trim(error: BaseException, directory: Path) -> TracebackType | None:
    """Return the traceback of `error` from the first frame inside `directory` on.

    If no frame is inside, return all of it; but None for a syntax error, which shows its own line.
    """
    for step in _steps(error.__traceback__):
        if is_inside(step.tb_frame.f_code.co_filename, directory):
            return step
    return None if isinstance(error, SyntaxError) else error.__traceback__


def user_traceback(error: BaseException, directory: Path) -> str:
    """Format `error` as Python does, without the frames that led to the user's code."""
    return traceback_of(error, trim(error, directory))


def is_inside(filename: str | None, directory: Path) -> bool:
    """Whether a file belongs to the model in `directory`."""
    if not filename:
        return False
    path = Path(filename)
    # a virtual environment may be inside the model directory
    return path.is_relative_to(directory) and "site-packages" not in path.parts


def _steps(step: TracebackType | None) -> Iterator[TracebackType]:
    while step is not None:
        yield step
        step = step.tb_next


def _place(filename: str, line: int, directory: Path) -> str:
    return f"{Path(filename).relative_to(directory)}:{line}"
