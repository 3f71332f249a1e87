"""The interface of the user's code: a blueprint, and the application that is built from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from obworker.errors import ObworkerError
from obworker.http.batches import Answers, Batching
from obworker.http.cycle import StartResponse
from obworker.http.environ import Environ
from obworker.settings import Settings


class Predictions(Protocol):
    """The WSGI application of a predictor."""

    @property
    def most_calls(self) -> int | None:
        """How many calls may run at once, None for any number."""

    @property
    def is_async(self) -> bool:
        """Whether the threads that call it only wait for coroutines."""

    @property
    def batch_limits(self) -> tuple[int, float] | None:
        """The largest batch, and how many seconds it waits for more; None without batches."""

    @property
    def check_health(self) -> Callable[[], None] | None:
        """A function that raises Unhealthy if the predictor is not well, if there is one."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""

    def answer_all(self, environs: Sequence[Environ]) -> Iterable[Answers]:
        """Answer a batch of requests: see http/batches.py."""


def batching_for(application: Predictions, settings: Settings) -> Batching | None:
    """Return how requests are batched, None if they are not; options override the predictor."""
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
        """The lines of the start-up report, each a label and a text."""

    @property
    def lacks(self) -> Mapping[str, str]:
        """What it lacks that some options need, with the reason; see settings.without_effect."""

    @property
    def body_kind(self) -> str:
        """How the predictor takes a request's body: json, data or none."""

    def preload(self) -> Blueprint:
        """Return a blueprint with what workers can share that are forked from this process.

        Raises:
            BootError: it cannot be made.
        """

    def boot(
        self,
        threads: int,
        on_fatal: Callable[[ObworkerError], object],
        on_no_memory: Callable[[], object] = ...,
    ) -> Predictions:
        """Build the predictor, which may use so many native `threads`.

        Both callbacks may come from any thread: `on_fatal` when the predictor cannot go on,
        `on_no_memory` each time that memory was short.

        Raises:
            BootError: the predictor cannot be built.
            DeviceError: its GPU has failed.
        """

    def reaches_predict(self, method: str, path: str) -> bool:
        """Whether a request has to wait for a free thread; others are answered at once."""

    def wind_up(self, timeout: float) -> None:
        """Finish what requests left behind, within `timeout` seconds."""
