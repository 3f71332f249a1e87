"""A predictor class that can be served: what is known of it, and how its application is built."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from obworker import settings
from obworker.errors import BootError, ObworkerError, RunError
from obworker.log import enable_loggers
from obworker.predictor import events
from obworker.predictor.arguments import Call, resolvers
from obworker.predictor.assets import Assets
from obworker.predictor.batching import DEFAULT_SIZE, Batcher, BatchLimits, Reader
from obworker.predictor.building import building, explain
from obworker.predictor.config import Config
from obworker.predictor.dispatch import Application, introduce, reaches_predict
from obworker.predictor.failures import Failures
from obworker.predictor.flask_side import FlaskSide, FlaskUse
from obworker.predictor.health import check_health
from obworker.predictor.injection import BatchPlan, Plan
from obworker.predictor.loop import PredictorLoop
from obworker.predictor.traces import trim

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("obworker.predictor")

# If run() fails sooner than this, the predictor counts as never built.
FAILS_AT_ONCE_TIME = 0.1


@dataclass(frozen=True)
class Blueprint:
    """A predictor class, and all that is known about it before an instance is made.

    It has `predict` or `batches`, or both. `own_batches` says why obworker does not call its
    predict_batch, if it has one that is not called.
    """

    file: Path
    predictor: type
    init: Plan
    predict: Plan | None
    batches: BatchPlan | None
    own_batches: str
    assets: Assets
    is_async: bool
    has_run: bool
    health: str | None
    in_production: bool
    shows_tracebacks: bool
    flask: FlaskUse

    @property
    def description(self) -> list[tuple[str, str]]:
        """Labelled lines for people: what will be served."""
        name = self.predictor.__name__
        called = f"{self._called}({', '.join(self._names)})"
        shape = f"{name}({', '.join(self.init.names)}).{called}"
        if self.is_async:
            shape = f"await {shape}"
        lines = [("predictor", f"{self.file.name}: {shape}")]
        if self.own_batches:
            lines.append(("batches", f"none: {self.own_batches}"))
        elif self.batches is not None:
            condition = "" if self.predict is None else ", where batches are asked for"
            lines.append(("batches", f"{name}.{self.batches.description}{condition}"))
        lines += self.assets.description
        if self.has_run:
            lines.append(("background", f"{name}.run()"))
        if self.health is not None:
            lines.append(("health", f"{name}.{self.health}()"))
        return lines

    @property
    def lacks(self) -> dict[str, str]:
        """What it lacks that some options need, with the reason; see settings.without_effect."""
        name = self.predictor.__name__
        counts_coroutines = self.is_async and self.batches is None
        lacking = (
            (settings.ONNX, self.assets.session is None, f"{self.init.title} asks for no onnx"),
            (
                settings.BATCHES,
                self.batches is None,
                self.own_batches or f"{name} has no predict_batch",
            ),
            (settings.HEALTH, self.health is None, f"{name} has no health()"),
            (settings.PLAIN, counts_coroutines, f"{name}.{self._called} is async def"),
            (settings.COROUTINES, not self.is_async, f"{name}.{self._called} is not async def"),
        )
        return {need: reason for need, is_lacking, reason in lacking if is_lacking}

    @property
    def body_kind(self) -> str:
        """What a request should carry: ``json``, ``data`` or ``none``."""
        asked = set(self._names)
        if asked & {"json", "payload"}:
            return "json"
        return "data" if asked & {"data", "request"} else "none"

    @property
    def _called(self) -> str:
        return "predict_batch" if self.predict is None else "predict"

    @property
    def _names(self) -> tuple[str, ...]:
        plan = self.predict or (self.batches and self.batches.predict)
        return plan.names if plan else ()

    # Whether a request has to wait for a free thread; others are answered at once.
    reaches_predict = staticmethod(reaches_predict)

    def preload(self) -> Blueprint:
        """Return this with what workers that are forked from this process can share.

        Raises:
            BootError: it cannot be made.
        """
        preloaded = replace(self, assets=self.assets.preload())
        self.flask.side()
        return preloaded

    def boot(
        self,
        threads: int,
        on_fatal: Callable[[ObworkerError], object],
        on_no_memory: Callable[[], object] = lambda: None,
    ) -> Application:
        """Construct the predictor in this process and return the application that serves it.

        Both callbacks may come from any thread, and more than once: `on_fatal` when run() fails in
        production or the GPU is lost, `on_no_memory` each time that memory is short.
        """
        failures = Failures(
            self.file.parent,
            shows_tracebacks=self.shows_tracebacks,
            on_fatal=on_fatal,
            on_no_memory=on_no_memory,
        )
        events.install(events.Recorder(events.RECORDER_URL if self.in_production else None))
        config = Config(threads)
        instance = self._construct(config)
        enable_loggers()
        self._check_use_of(config)
        if self.has_run:
            run = partial(self._run, instance, failures, on_fatal)
            thread = threading.Thread(target=run, name="run", daemon=True)
            thread.start()
            thread.join(FAILS_AT_ONCE_TIME)
        return self._application_of(instance, config, failures)

    def wind_up(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until the last events are sent."""
        events.flush(timeout)

    def _application_of(self, instance: object, config: Config, failures: Failures) -> Application:
        loop, flask = PredictorLoop(), self.flask.side()
        return Application(
            self._predict_of(instance, flask),
            failures,
            batcher=self._batcher_of(instance, flask, loop, failures, config.most_calls),
            batch_limits=self._batch_limits(config),
            most_calls=config.most_calls,
            prepare=flask.prepare_for(self.predict),
            check_health=self._health_check(instance, loop, failures),
            loop=loop,
            is_async=self.is_async,
        )

    def _construct(self, config: Config) -> object:
        values = {"config": config, **self.assets.complete()}
        by_name = {name: itemgetter(name) for name in self.init.names}
        with building(self.init.title, self.file):
            return self.init.bind(self.predictor, by_name)(values)

    def _check_use_of(self, config: Config) -> None:
        if config.batch_limits is not None and self.batches is None:
            reason = self.own_batches or f"{self.predictor.__name__} has none"
            raise BootError(f"{self.file.name}: config.batch() is for predict_batch, and {reason}")

    def _predict_of(self, instance: object, flask: FlaskSide) -> Callable[[Call], object] | None:
        if self.predict is None:
            return None
        predict: Callable[..., object] = instance.predict  # type: ignore[attr-defined]  # was seen
        return self.predict.bind(predict, resolvers(flask.make_request))

    def _batcher_of(
        self,
        instance: object,
        flask: FlaskSide,
        loop: PredictorLoop,
        failures: Failures,
        most_calls: int | None,
    ) -> Batcher | None:
        if self.batches is None:
            return None
        return Batcher(
            instance.predict_batch,  # type: ignore[attr-defined]  # plan_batches has seen it
            Reader(
                self.batches,
                getattr(instance, "batch_key", None),
                resolvers(flask.make_request),
                introduce=introduce,
                prepare=flask.prepare_for(self.batches.predict),
            ),
            loop,
            examine=failures.examine,
            most_calls=most_calls,
            surroundings=flask.context,
        )

    def _batch_limits(self, config: Config) -> BatchLimits | None:
        """Return the limits for a server; beside predict, predict_batch is not used by default."""
        if self.batches is None:
            return None
        return config.batch_limits or BatchLimits(DEFAULT_SIZE if self.predict is None else 1)

    def _health_check(
        self, instance: object, loop: PredictorLoop, failures: Failures
    ) -> Callable[[], None] | None:
        if self.health is None:
            return None
        title = f"{self.predictor.__name__}.{self.health}()"
        ask = getattr(instance, self.health)
        return partial(
            check_health, lambda: loop.settle(ask()), title, self.file.parent, failures.examine
        )

    def _run(
        self, instance: object, failures: Failures, on_fatal: Callable[[ObworkerError], object]
    ) -> None:
        """Call run() on a thread of its own; outside production, an error ends that thread only."""
        try:
            instance.run()  # type: ignore[attr-defined]  # has_background_run has seen it
        except BaseException as error:  # the user's thread ends here
            title = f"{self.predictor.__name__}.run"
            shown = (type(error), error, trim(error, self.file.parent))
            log.error("%s failed", title, exc_info=shown)
            if not failures.examine(error) and self.in_production:
                on_fatal(RunError(explain(error, title, self.file)))
