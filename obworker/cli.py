"""The entry points: from argv to what runs. The only module that prints or exits.

There are two: ``obworker [OPTIONS] MODEL``, and ``run(cls)`` in a predictor.py that is executed as
a script (standalone.py).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from obworker import configuration, log, log_files, standalone, start_sh
from obworker.command import make_command, parse, to_standard_output
from obworker.configuration import CONFIG_VARIABLE, Given, Resolve, Resolved
from obworker.environment import default_port, metrics_directory, with_dotenv
from obworker.errors import (
    EXIT_INTERRUPTED,
    LoadError,
    ObworkerError,
    UsageError,
    nearest,
)
from obworker.operations import OPERATIONS, operate
from obworker.options import as_text
from obworker.predictor import loader, model_files
from obworker.prepack import prepack
from obworker.printing import STANDARD_ERROR, open_closed
from obworker.settings import KEYS, OPTIONS, Settings
from obworker.supervisor import lent, linux, listeners
from obworker.supervisor.gpu_listing import until_found
from obworker.supervisor.outside import Surroundings
from obworker.supervisor.script import SCRIPT
from obworker.supervisor.signals import OF_MASTER, Signals, ignore

if TYPE_CHECKING:
    from obworker.supervisor.plan import Plan
    from obworker.supervisor.visibility import Listing

FACTORY = "obworker.predictor.application:load"
PREPACK = "prepack"
RUNTIME_DIRECTORY = "XDG_RUNTIME_DIR"

logger = logging.getLogger("obworker.master")


def main() -> NoReturn:
    """Run the command ``obworker``."""
    _exit_with(lambda: _run(sys.argv[1:]))


def run_class(predictor: type) -> None:
    """Serve a class whose predictor.py is being executed, with the options in ``sys.argv``."""
    if not loader.announce(predictor):
        _exit_with(lambda: _serve_class(predictor, sys.argv[1:]))


def _exit_with(serve: Callable[[], int]) -> NoReturn:
    """Exit with what `serve` returns; show the user's mistakes as one line and a hint."""
    open_closed()
    terminal = os.dup(STANDARD_ERROR)
    try:
        code = _serve_here(serve)
    except ObworkerError as error:
        _complain(error, terminal)
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code)


def _serve_here(serve: Callable[[], int]) -> int:
    """Serve where that is possible at all; say so where it is not.

    Raises:
        UsageError: what every process needs is not there.
    """
    if sys.platform != "linux":
        raise UsageError(f"obworker runs on Linux only; this is {sys.platform}")
    if not os.access("/proc/self", os.R_OK):
        raise UsageError("there is no /proc", hint="mount -t proc proc /proc")
    try:
        return serve()
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise UsageError(linux.why_no_process(error)) from error


def _complain(error: ObworkerError, terminal: int) -> None:
    """Write the error to the log, and to the terminal if the log has become a file since."""
    text = f"obworker: error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else "")
    _tell(text)
    if not os.path.sameopenfile(terminal, STANDARD_ERROR):
        _tell(text, terminal)


def _tell(text: str, descriptor: int = STANDARD_ERROR) -> None:
    """Write to standard error, even if predictor.py has replaced sys.stderr."""
    with contextlib.suppress(OSError):  # the reader has gone, or the disk is full
        os.write(descriptor, text.encode(errors="backslashreplace"))


def _run(arguments: Sequence[str]) -> int:
    command = arguments[0] if arguments else None
    if command == PREPACK:
        return _print(prepack(arguments[1:]))
    if command in OPERATIONS:
        return _print(operate(arguments, os.environ.get(RUNTIME_DIRECTORY)))
    return _serve_model(arguments)


# obworker prepack, status, reload, scale, stop, stacks


def _print(printed: str | int) -> int:
    """Print what a command returned, and return the exit code."""
    if isinstance(printed, int):
        return printed
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # it may be predictor.py's own
    shown = printed.encode(encoding, "backslashreplace").decode(encoding)
    with to_standard_output():
        sys.stdout.write(f"{shown}\n")
    return 0


# obworker MODEL


def _serve_model(arguments: Sequence[str]) -> int:
    values = parse(make_command("obworker", takes_model=True), arguments)
    if isinstance(values, int):
        return values
    if values["version"]:
        return _print_version()
    resolved = _resolve(values, None)
    if values["print_config"]:
        return _print_config(*resolved)
    try:
        return _supervise(*resolved, lambda: _resolve(values, None))
    finally:
        ignore(*OF_MASTER)  # Python ends with their default effects: one more TERM would kill it


def _resolve(values: Mapping[str, Any], model: Path | None) -> Resolved:
    """Merge all sources of settings.

    The model's .env adds to the environment, but changes no variable that is set there.
    """
    texts = {key: None if values.get(key) is None else as_text(values[key]) for key in KEYS}
    command_line = configuration.from_command_line(texts)
    file = _from_file(values["config"])
    outer = configuration.from_environ(os.environ)
    directory = model or _directory_of(command_line, outer, file)
    environ = with_dotenv(os.environ, directory)
    for variable in configuration.unknown_variables(environ):
        _tell(f"obworker: warning: {variable} names no option\n")
    given, sources = configuration.resolve(command_line, configuration.from_environ(environ), file)
    return given, sources, environ


def _from_file(name: str | None) -> dict[str, Given]:
    if name == "":
        raise UsageError("--config: is empty")
    found = name or os.environ.get(CONFIG_VARIABLE)
    return configuration.from_file(Path(found)) if found else {}


def _directory_of(*layers: Mapping[str, Given]) -> Path | None:
    model = next((layer["model"].text for layer in layers if "model" in layer), None)
    return None if model is None else _directory(model)


def _directory(model: str) -> Path:
    path = Path(model)
    is_directory = os.path.isdir(path)  # noqa: PTH112  # Path.is_dir raises where it may not look
    return path if is_directory or path.suffix != model_files.SUFFIX else path.parent


def _print_version() -> int:
    from obworker import __version__

    return _print(f"obworker {__version__}")


def _print_config(given: Settings, sources: Mapping[str, str], environ: Mapping[str, str]) -> int:
    """Print all settings as a configuration file, each with its source as a comment."""
    lines = []
    for option in OPTIONS:
        value = getattr(given, option.field)
        source = sources.get(option.key, "default")
        if option.key == "port" and value is None:
            value, source = default_port(environ)
        if option.key in ("host", "port") and given.bind is not None:
            value, source = None, "bind says where"
        if value is None:
            lines.append(f"# {option.key} =  # {source}: {option.default}")
        else:
            lines.append(f"{option.key} = {_toml(value)}  # {source}")
    return _print("\n".join(lines))


def _toml(value: object) -> str:
    if isinstance(value, bool | int | float):
        return as_text(value)
    return json.dumps(value, ensure_ascii=False)  # its escapes are TOML's


def _supervise(
    given: Settings, sources: Mapping[str, str], environ: dict[str, str], resolve: Resolve
) -> int:
    model = _model(given)
    if _has_script(model):
        return start_sh.supervise(Path(model), given, sources, environ, resolve)
    log_files.open_files(given)
    log.configure(given.log_level)
    gpus = until_found()
    plan = partial(_plan, given, sources, environ, gpus)
    return _supervise_predictor(given, environ, plan, lambda: _plan(*resolve(), gpus))


def _model(given: Settings) -> str:
    if given.model is None:
        raise UsageError("MODEL is missing: the directory to serve", hint="obworker --help")
    return given.model


def _has_script(model: str) -> bool:
    path = Path(model)
    try:
        if not model_files.is_there(path):
            raise UsageError(f"{model}: there is no such file or directory", _command_like(model))
        return path.is_dir() and _finds_file(path / SCRIPT)
    except OSError as error:
        raise model_files.unreadable(model, error) from error


def _command_like(model: str) -> str | None:
    command = None if "/" in model else nearest(model, (*OPERATIONS, PREPACK))
    return command and f"did you mean the command obworker {command}?"


def _finds_file(script: Path) -> bool:
    if script.is_file():
        return True
    if os.path.lexists(script):
        raise LoadError(f"{script} is a directory, or a link to nothing")
    return False


def _plan(
    given: Settings,
    sources: Mapping[str, str],
    environ: Mapping[str, str],
    gpus: Callable[[], Listing],
) -> Plan:
    """Make the plan of what to run, at the start or for a reload."""
    from obworker.supervisor.plan import Plan

    file = model_files.find_predictor(Path(_model(given)))
    model_files.resolve_model_path(given.model_path, file.parent)
    return Plan.make(given, environ, FACTORY, sources, gpus)


def _supervise_predictor(
    given: Settings,
    environ: Mapping[str, str],
    plan: Callable[[], Plan],
    replan: Callable[[], Plan],
) -> int:
    from obworker.supervisor.master import Master

    # First of all: process 1 of a container does not get signals without a handler.
    signals = Signals(OF_MASTER)
    first = plan()
    sockets = lent.from_systemd(environ)
    surroundings = Surroundings(environ, sockets.admin, metrics_directory(environ))
    with contextlib.ExitStack() as undo:
        served = listeners.open_all(given, environ, sockets.main)
        undo.callback(served.withdraw)
        master = Master(first, replan, served, signals, surroundings)
        undo.pop_all()
    master.run()
    return 0


# python predictor.py


def _serve_class(predictor: type, arguments: Sequence[str]) -> int:
    values = parse(make_command("predictor.py", takes_model=False), arguments)
    if isinstance(values, int):
        return values
    if values["version"]:
        return _print_version()
    source = loader.source_of(predictor)
    given, sources, environ = _resolve(values, source.file.parent)
    if values["print_config"]:
        return _print_config(given, sources, environ)
    return standalone.serve(predictor, source, arguments, given, sources, environ)
