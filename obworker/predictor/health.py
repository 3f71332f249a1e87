"""The predictor's own word on whether it can serve: its health(), or is_ready()."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obworker.errors import Unhealthy
from obworker.predictor.traces import locate, summarise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class HealthCheck:
    """Asks one method of a predictor; False or an exception is bad news, all else is good."""

    def __init__(
        self,
        ask: Callable[[], object],
        title: str,
        directory: Path,
        on_error: Callable[[BaseException], object],
    ) -> None:
        self._ask = ask
        self._title = title
        self._directory = directory
        self._on_error = on_error

    def __call__(self) -> None:
        """Ask.

        Raises:
            Unhealthy: the predictor cannot serve.
        """
        try:
            is_bad = _is_false(self._ask())
        except BaseException as error:  # whatever it is, it is the user's code that raised it
            self._on_error(error)
            raise Unhealthy(self._explain(error)) from error
        if is_bad:
            raise Unhealthy(f"{self._title} returned False")

    def _explain(self, error: BaseException) -> str:
        place = locate(error, self._directory)
        where = f"{place}: " if place else ""
        return f"{where}{self._title} raised {summarise(error)}"


def _is_false(answer: object) -> bool:
    """Whether it is False, or an array's: what ``isfinite(x).all()`` gives in numpy and in torch.

    To look at one may wait for a GPU, and raise what happened there.
    """
    if answer is False:
        return True
    is_flag = getattr(answer, "ndim", None) == 0 and str(answer.dtype).endswith("bool")  # type: ignore[attr-defined]  # an array has one
    return is_flag and not answer
