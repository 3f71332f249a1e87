"""The ways from a model directory, or a class, to a blueprint and to a WSGI application."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obworker.cores import threads_alone
from obworker.environment import Environment, detect, with_dotenv
from obworker.errors import InjectionError, LoadError
from obworker.log import enable_loggers
from obworker.predictor import loader
from obworker.predictor.assets import Assets
from obworker.predictor.blueprint import Blueprint
from obworker.predictor.flask_side import FlaskUse
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
from obworker.predictor.model_files import find_onnx, find_predictor, resolve_model_path
from obworker.predictor.onnx import plan_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obworker.predictor.dispatch import Application


def load(
    path: str,
    class_name: str | None = None,
    model_path: str | None = None,
    environment: str = "local",
    onnx: Mapping[str, Any] | None = None,
    tracebacks: str = "auto",
) -> Blueprint:
    """Import the predictor.py that `path` means, and check all that can be checked by now.

    Changes the working directory to the model directory, as its code expects. `onnx` has arguments
    of plan_session; `tracebacks` is the option's value.
    """
    file = find_predictor(Path(path))
    model = resolve_model_path(model_path, file.parent)
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
    """Do as load does, with a class that exists already: ``python predictor.py``.

    If the script has changed the working directory, it is left as it is.
    """
    file = loader.source_of(predictor).file
    model = resolve_model_path(model_path, file.parent)
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
    os.environ.update(with_dotenv(os.environ, find_predictor(Path(path)).parent))
    blueprint = load(path, class_name, model_path, detect(os.environ).value, onnx, tracebacks)
    # A worker of another server cannot be drained by us; it is replaced when it has ended.
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
    _check_complete(predictor, file)
    init = plan_init(predictor)
    predict, batches, own_batches = _plan_calls(predictor)
    wants_onnx = "onnx" in init.names
    session = plan_session(find_onnx(file.parent, model), **onnx) if wants_onnx else None
    in_production = Environment(environment) is Environment.PRODUCTION
    shows = {"on": True, "off": False, "auto": not in_production}
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
        in_production=in_production,
        shows_tracebacks=shows[tracebacks],
        flask=FlaskUse(file.parent, asks_for_request=_asks_for_request(predict, batches)),
    )


def _asks_for_request(predict: Plan | None, batches: BatchPlan | None) -> bool:
    plans = (predict, batches and batches.predict)
    return any(plan and "request" in plan.names for plan in plans)


def _check_complete(predictor: type, file: Path) -> None:
    if inspect.isabstract(predictor):
        missing = ", ".join(sorted(getattr(predictor, "__abstractmethods__", ())))
        raise LoadError(f"{file.name}: {predictor.__name__} is abstract: it lacks {missing}")


def _plan_calls(predictor: type) -> tuple[Plan | None, BatchPlan | None, str]:
    """Return the plans for predict and predict_batch, and why there is none for the latter.

    A predict_batch beside predict, with parameters that cannot be filled, is not for obworker: many
    predictors had a method of that name before it meant anything here.
    """
    if has_method(predictor, "predict_batch") and not has_method(predictor, "predict"):
        return None, plan_batches(predictor), ""
    predict = plan_predict(predictor)
    try:
        return predict, plan_batches(predictor), ""
    except InjectionError as error:
        return predict, None, str(error)
