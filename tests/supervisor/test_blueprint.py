from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from obworker.http.batches import Answers
from obworker.http.cycle import StartResponse
from obworker.http.environ import Environ
from obworker.predictor.batching import BatchLimits
from obworker.settings import Settings
from obworker.supervisor.blueprint import batching_for, threads_for


@dataclass
class Application:
    """What a worker asks an application about its threads and batches."""

    is_async: bool = False
    most_calls: int | None = None
    batch_limits: BatchLimits | None = None
    check_health = None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return []

    def answer_all(self, environs: Sequence[Environ]) -> Iterable[Answers]:
        return []


@pytest.mark.parametrize(
    ("is_async", "most_calls", "threads"),
    [(False, None, 4), (False, 2, 2), (False, 9, 4), (True, None, 8), (True, 2, 2), (True, 9, 8)],
)
def test_how_many_threads_call_predict(
    is_async: bool, most_calls: int | None, threads: int
) -> None:
    settings = Settings(threads=4, async_concurrency=8)
    assert threads_for(Application(is_async, most_calls), settings) == threads


@pytest.mark.parametrize(
    ("limits", "options", "expected"),
    [
        (None, {"max_batch_size": 8}, None),
        (BatchLimits(1), {}, None),
        (BatchLimits(8), {}, (8, 0.0)),
        (BatchLimits(8, 0.002), {}, (8, 0.002)),
        (BatchLimits(8, 0.002), {"max_batch_size": 3, "max_batch_wait_ms": 0.0}, (3, 0.0)),
        (BatchLimits(1), {"max_batch_size": 3, "max_batch_wait_ms": 5.0}, (3, 0.005)),
        (BatchLimits(8), {"max_batch_size": 1}, None),
    ],
)
def test_how_many_go_together(
    limits: BatchLimits | None, options: dict[str, Any], expected: tuple[int, float] | None
) -> None:
    batching = batching_for(Application(batch_limits=limits), Settings(**options))
    assert (batching and (batching.size, batching.wait)) == expected


def test_batches_of_coroutines_need_no_more_threads_than_others() -> None:
    application = Application(is_async=True, batch_limits=BatchLimits(8))
    settings = Settings(threads=2, async_concurrency=8)
    assert threads_for(application, settings) == 2
