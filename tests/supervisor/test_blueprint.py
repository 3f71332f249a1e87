from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from obworker.http.cycle import StartResponse
from obworker.http.environ import Environ
from obworker.settings import Settings
from obworker.supervisor.blueprint import threads_for


@dataclass
class Application:
    """What a worker asks an application about its threads."""

    is_async: bool
    most_calls: int | None
    check_health = None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
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
