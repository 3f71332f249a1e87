"""A model directory becomes a WSGI application: what can be known is known before it is built."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obworker import settings
from obworker.cores import threads_alone
from obworker.environment import Environment, detect, with_dotenv
from obworker.errors import BootError, InjectionError, LoadError, ObworkerError, RunError
from obworker.log import enable_loggers
from obworker.predictor import events, loader
from obworker.predictor.arguments import Call, resolvers
from obworker.predictor.assets import Assets
from obworker.predictor.batching import DEFAULT_SIZE, Batcher, BatchLimits, Reader
from obworker.predictor.building import building, explain
from obworker.predictor.dispatch import Application, Config, introduce, reaches_predict
from obworker.predictor.failures import Failures
from obworker.predictor.flask_side import FlaskSide, FlaskUse
from obworker.predictor.health import check_health
from obworker.predictor.injection import (
    BatchPlan,
    Plan,
    has_background_run,
    has_method,
    has_preload,
    health_method,
    is_async,
    plan_batches,
    plan_init,
    plan_predict,
)
from obworker.predictor.loop import PredictorLoop
from obworker.predictor.onnx import find_model, plan_session
from obworker.predictor.traces import trim

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Application", "Blueprint", "adopt", "create", "load"]

log = logging.getLogger("obworker.predictor")

# A run() that fails sooner has failed before the predictor is served.
FAILS_AT_ONCE_TIME = 0.1


@dataclass(frozen=True)
class Blueprint:
    """A predictor class with everything known about it short of constructing one.

    It has `predict` or `batches`, or both. `own_batches` says why a predict_batch is taken for the
    predictor's own affair.
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
    environment: Environment
    shows_tracebacks: bool
    flask: FlaskUse

    @property
    def description(self) -> list[tuple[str, str]]:
        """What will be served, as labelled lines for people."""
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
        """What options need that it has not got, and how that is; see settings.without_effect."""
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

        `on_fatal` is called, from any thread and maybe more than once, if the predictor's run()
        fails in production, or the GPU is lost; `on_no_memory` for each time that memory was short.
        """
        failures = Failures(
            self.file.parent,
            shows_tracebacks=self.shows_tracebacks,
            on_fatal=on_fatal,
            on_no_memory=on_no_memory,
        )
        events.install(events.Recorder(events.RECORDER_URL if self._in_production else None))
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
        """Wait, but not for longer than `timeout` seconds, until the last events are sent."""
        events.flush(timeout)

    @property
    def _in_production(self) -> bool:
        return self.environment is Environment.PRODUCTION

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
        binding = self.init.bind({name: itemgetter(name) for name in self.init.names})
        with building(self.init.title, self.file):
            return binding.call(self.predictor, values)

    def _check_use_of(self, config: Config) -> None:
        if config.batch_limits is not None and self.batches is None:
            reason = self.own_batches or f"{self.predictor.__name__} has none"
            raise BootError(f"{self.file.name}: config.batch() is for predict_batch, and {reason}")

    def _predict_of(self, instance: object, flask: FlaskSide) -> Callable[[Call], object] | None:
        if self.predict is None:
            return None
        binding = self.predict.bind(resolvers(flask.make_request))
        return partial(binding.call, instance.predict)  # type: ignore[attr-defined]  # was seen

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
        """Return what a server is to keep to; a predict_batch beside predict waits to be asked."""
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
        """Call run(), on a thread of its own; outside production what it raises ends only that."""
        try:
            instance.run()  # type: ignore[attr-defined]  # has_background_run has seen it
        except BaseException as error:  # the user's thread ends here
            title = f"{self.predictor.__name__}.run"
            shown = (type(error), error, trim(error, self.file.parent))
            log.error("%s failed", title, exc_info=shown)
            if not failures.examine(error) and self._in_production:
                on_fatal(RunError(explain(error, title, self.file)))


def load(
    path: str,
    class_name: str | None = None,
    model_path: str | None = None,
    environment: str = "local",
    onnx: Mapping[str, Any] | None = None,
    tracebacks: str = "auto",
) -> Blueprint:
    """Import the predictor.py that `path` means and check all that needs no instance.

    Changes the working directory to the model directory, as its code expects. `onnx` is for
    plan_session, `tracebacks` is as in the settings.
    """
    file = loader.find(Path(path))
    model = loader.find_model_path(model_path, file.parent)
    os.chdir(file.parent)
    predictor = loader.load_class(file, class_name)
    enable_loggers()
    return _plan(file, predictor, model, environment, onnx or {}, tracebacks)


def adopt(
    predictor: type,
    model_path: str | None = None,
    environment: str = "local",
    onnx: Mapping[str, Any] | None = None,
    tracebacks: str = "auto",
) -> Blueprint:
    """Do what load does with a class that is there already: ``python predictor.py``.

    A script that has changed the working directory stays in the one that it chose.
    """
    file = loader.source_of(predictor).file
    model = loader.find_model_path(model_path, file.parent)
    if not loader.has_script_moved():
        os.chdir(file.parent)
    return _plan(file, predictor, model, environment, onnx or {}, tracebacks)


def create(
    path: str = ".",
    class_name: str | None = None,
    model_path: str | None = None,
    onnx: Mapping[str, Any] | None = None,
    tracebacks: str = "auto",
) -> Application:
    """Return the application for any WSGI server.

    For example ``gunicorn "obworker.predictor.application:create('./model')"``. `onnx` and
    `tracebacks` are as for load.
    """
    os.environ.update(with_dotenv(os.environ, loader.find(Path(path)).parent))
    blueprint = load(path, class_name, model_path, detect(os.environ).value, onnx, tracebacks)
    # Another server's worker is not ours to stop gently; it is replaced when it is gone.
    return blueprint.boot(
        threads_alone(os.environ), on_fatal=lambda error: os._exit(error.exit_code)
    )


def _plan(
    file: Path,
    predictor: type,
    model: Path | None,
    environment: str,
    onnx: Mapping[str, Any],
    tracebacks: str,
) -> Blueprint:
    if inspect.isabstract(predictor):
        missing = ", ".join(sorted(getattr(predictor, "__abstractmethods__", ())))
        raise LoadError(f"{file.name}: {predictor.__name__} is abstract: it lacks {missing}")
    init = plan_init(predictor)
    predict, batches, own_batches = _plan_calls(predictor)
    wants_onnx = "onnx" in init.names
    session = plan_session(find_model(file.parent, model), **onnx) if wants_onnx else None
    plans = (predict, batches and batches.predict)
    asks_for_request = any(plan and "request" in plan.names for plan in plans)
    where = Environment(environment)
    shows = {"on": True, "off": False, "auto": where is not Environment.PRODUCTION}
    return Blueprint(
        file=file,
        predictor=predictor,
        init=init,
        predict=predict,
        batches=batches,
        own_batches=own_batches,
        assets=Assets(file, predictor, session, has_preload(predictor)),
        is_async=is_async(predictor, "predict_batch" if predict is None else "predict"),
        has_run=has_background_run(predictor),
        health=health_method(predictor),
        environment=where,
        shows_tracebacks=shows[tracebacks],
        flask=FlaskUse(file.parent, asks_for_request=asks_for_request),
    )


def _plan_calls(predictor: type) -> tuple[Plan | None, BatchPlan | None, str]:
    """Return the plans for predict and predict_batch, and why there is none for the latter.

    A predict_batch beside predict that asks for what no request has is the predictor's own affair:
    many had one before it meant anything here.
    """
    if has_method(predictor, "predict_batch") and not has_method(predictor, "predict"):
        return None, plan_batches(predictor), ""
    predict = plan_predict(predictor)
    try:
        return predict, plan_batches(predictor), ""
    except InjectionError as error:
        return predict, None, str(error)
