"""What the supervisor wants of the user's code: a blueprint, and the application built from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from obworker.errors import ObworkerError
from obworker.http.batches import Answers, Batching
from obworker.http.cycle import StartResponse
from obworker.http.environ import Environ
from obworker.settings import Settings


class Predictions(Protocol):
    """The WSGI application; at most `most_calls` of it are to run at once, where that is set."""

    @property
    def most_calls(self) -> int | None:
        """How many threads may call it."""

    @property
    def is_async(self) -> bool:
        """Whether a thread that calls it only waits for coroutines."""

    @property
    def batch_limits(self) -> tuple[int, float] | None:
        """Whether it can answer requests at once: most of them, and seconds to wait for others."""

    @property
    def check_health(self) -> Callable[[], None] | None:
        """What raises Unhealthy where the predictor is not well, if it can tell."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""

    def answer_all(self, environs: Sequence[Environ]) -> Iterable[Answers]:
        """Answer several requests at once: see http/batches.py."""


def batching_for(application: Predictions, settings: Settings) -> Batching | None:
    """Return how requests are answered together, if they are; options win over the predictor."""
    if application.batch_limits is None:
        return None
    size, wait = application.batch_limits
    size = settings.max_batch_size or size
    if settings.max_batch_wait_ms is not None:
        wait = settings.max_batch_wait_ms / 1000
    return Batching(application.answer_all, size, wait) if size > 1 else None


def threads_for(application: Predictions, settings: Settings) -> int:
    """Return how many threads call predict, or predict_batch."""
    is_batched = batching_for(application, settings) is not None
    by_coroutines = application.is_async and not is_batched
    threads = settings.async_concurrency if by_coroutines else settings.threads
    return min(threads, application.most_calls or threads)


class Blueprint(Protocol):
    """User code that was imported and checked; each worker builds its own predictor from it."""

    @property
    def description(self) -> Sequence[Sequence[str]]:
        """Label and text of each line of the start-up report."""

    @property
    def lacks(self) -> Mapping[str, str]:
        """What options need of a predictor and it has not got, and how that is."""

    @property
    def body_kind(self) -> str:
        """What a request's body is to the predictor: json, data or none."""

    def preload(self) -> Blueprint:
        """Return this with what workers that are forked from this process can share.

        Raises:
            BootError: it cannot be made.
        """

    def boot(
        self,
        threads: int,
        on_fatal: Callable[[ObworkerError], object],
        on_no_memory: Callable[[], object] = ...,
    ) -> Predictions:
        """Build the predictor with so many native threads.

        Both are called from any thread: `on_fatal` when the predictor cannot go on, `on_no_memory`
        each time that it found no memory.

        Raises:
            BootError: the predictor cannot be built.
            DeviceError: its GPU has failed.
        """

    def reaches_predict(self, method: str, path: str) -> bool:
        """Whether a request has to wait for a free thread; others are answered at once."""

    def wind_up(self, timeout: float) -> None:
        """Finish what requests left behind, within `timeout` seconds."""
