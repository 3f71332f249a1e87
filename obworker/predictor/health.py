"""Asks the predictor whether it can serve: its health(), or is_ready()."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obworker.errors import Unhealthy
from obworker.predictor.traces import locate, summarise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def check_health(
    ask: Callable[[], object],
    title: str,
    directory: Path,
    on_error: Callable[[BaseException], object],
) -> None:
    """Call the health method of a predictor: False or an exception means that it cannot serve.

    Raises:
        Unhealthy: the predictor cannot serve.
    """
    try:
        is_bad = _is_false(ask())
    except BaseException as error:  # whatever it is, it is the user's code that raised it
        on_error(error)
        place = locate(error, directory)
        where = f"{place}: " if place else ""
        raise Unhealthy(f"{where}{title} raised {summarise(error)}") from error
    if is_bad:
        raise Unhealthy(f"{title} returned False")


def _is_false(answer: object) -> bool:
    """Whether it is False, or a false array of no dimension, as of ``isfinite(x).all()``.

    The value of a tensor may have to be awaited from a GPU, and raise an error from there.
    """
    if answer is False:
        return True
    is_flag = getattr(answer, "ndim", None) == 0 and str(answer.dtype).endswith("bool")  # type: ignore[attr-defined]  # an array has one
    return is_flag and not answer
