"""``python predictor.py``: serves a class in the process that has defined it.

With more than one worker, or in production, that process becomes the supervised server instead. It
does so by exec, because a master must not have run the user's code.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn

from obworker import log, log_files
from obworker.cores import threads_alone
from obworker.environment import Environment, detect
from obworker.errors import LoadError
from obworker.predictor.loader import Source
from obworker.settings import Settings
from obworker.supervisor import bootstrap, gpu_listing, gpus, linux, listeners


def serve(
    predictor: type,
    source: Source,
    arguments: Sequence[str],
    settings: Settings,
    given: Collection[str],
    environ: Mapping[str, str],
) -> int:
    """Serve a class that can be loaded from `source`, and return the exit code.

    `arguments` are those of the command line, `given` the keys of the settings that were given.

    Raises:
        LoadError: it cannot be loaded from there, or run() was called on another thread.
        UsageError: an address, a file or a GPU is not available.
    """
    if detect(environ) is Environment.PRODUCTION or (settings.workers or 1) > 1:
        _become_supervised(source, arguments)
    return _serve_here(predictor, settings, given, environ)


def _become_supervised(source: Source, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by a master, which has not run the user's code."""
    file, name = source
    if "." in name:
        raise LoadError(f"{file.name}: class {name} is not at the top level of its module")
    command = bootstrap.python("from obworker.cli import main; main()")
    linux.execute([*command, "--class", name, *arguments, str(file)])


def _serve_here(
    predictor: type, settings: Settings, given: Collection[str], environ: Mapping[str, str]
) -> int:
    # takes 60 ms, which the supervised server does not need
    from obworker.predictor.application import adopt
    from obworker.supervisor import inprocess

    if threading.current_thread() is not threading.main_thread():
        raise LoadError("run() has to be called on the main thread, where predict will run")
    os.environ.update(environ)
    log_files.open_files(settings)
    log.configure(settings.log_level)
    _choose_devices(settings, environ)
    with contextlib.ExitStack() as stack:
        served = listeners.open_all(settings, environ)
        stack.callback(served.withdraw)
        where = detect(environ).value
        blueprint = adopt(predictor, settings.model_path, where, settings.onnx, settings.tracebacks)
        return inprocess.serve(blueprint, served, settings, given, threads_alone(environ))


def _choose_devices(settings: Settings, environ: Mapping[str, str]) -> None:
    """Hide GPUs that were not asked for; it is too late if the user's code has used one already."""
    if settings.gpus == "auto":
        return
    chosen = gpus.select(settings.gpus, environ, gpu_listing.enumerate_gpus)
    os.environ.update(gpus.grouped(chosen, settings.gpus_per_worker)[0].environment)
