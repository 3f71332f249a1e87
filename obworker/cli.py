"""From argv to what runs. The only module that prints or exits.

Both ways in end here: ``obworker [OPTIONS] MODEL``, and ``run(cls)`` of a predictor.py that is
executed as a script (standalone.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from obworker import configuration, log, standalone
from obworker.command import make_command, parse, to_standard_output
from obworker.configuration import CONFIG_VARIABLE, Given
from obworker.environment import default_port, port_in, with_dotenv
from obworker.errors import (
    EXIT_INTERRUPTED,
    ListenError,
    LoadError,
    ObworkerError,
    UsageError,
    nearest,
)
from obworker.operations import OPERATIONS, operate
from obworker.options import text_of
from obworker.predictor import loader
from obworker.prepack import prepack
from obworker.printing import STANDARD_ERROR, open_closed
from obworker.settings import KEYS, OPTIONS, Settings
from obworker.supervisor import lent, linux, listeners
from obworker.supervisor.gpu_listing import until_found
from obworker.supervisor.listeners import Address
from obworker.supervisor.outside import Surroundings
from obworker.supervisor.script import SCRIPT, Script
from obworker.supervisor.signals import OF_MASTER, Signals

if TYPE_CHECKING:
    from obworker.supervisor.plan import Plan
    from obworker.supervisor.visibility import Listing

FACTORY = "obworker.predictor.application:load"
PREPACK = "prepack"
SCRIPT_PORT = 80
# What a start.sh and its supervisor go by; certificates and keys are refused.
SCRIPT_OPTIONS = {
    *("model", "bind", "port", "boot_timeout", "graceful_timeout"),
    *("admin_bind", "unix_mode", "control_socket", "log_file", "log_level"),
}
# What is its supervisor's alone: an obworker that a start.sh runs is not to want the same.
OF_SUPERVISOR = {
    CONFIG_VARIABLE,
    *(KEYS[key].variable for key in ("model", "admin_bind", "control_socket", "log_file")),
}
RUNTIME_DIRECTORY = "XDG_RUNTIME_DIR"

logger = logging.getLogger("obworker.master")

Resolved = tuple[Settings, dict[str, str], dict[str, str]]
"""Settings, where each that was given came from, and the environment."""

Resolve = Callable[[], Resolved]
"""Reads all sources of settings again, as a reload does."""


def main() -> NoReturn:
    """Run the command ``obworker``."""
    _exit_with(lambda: _run(sys.argv[1:]))


def run_class(predictor: type) -> None:
    """Serve a class whose predictor.py is being executed, with the options in ``sys.argv``."""
    if not loader.announce(predictor):
        _exit_with(lambda: _serve_class(predictor, sys.argv[1:]))


def _exit_with(serve: Callable[[], int]) -> NoReturn:
    """Exit with what `serve` returns; show the user's own mistakes as one line and a hint."""
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
    """Tell the log, and whoever started us where the log has gone to a file since."""
    text = f"obworker: error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else "")
    _tell(text)
    if not os.path.sameopenfile(terminal, STANDARD_ERROR):
        _tell(text, terminal)


def _tell(text: str, descriptor: int = STANDARD_ERROR) -> None:
    """Write to where errors go, whatever predictor.py has put in the place of sys.stderr."""
    with contextlib.suppress(OSError):  # nobody reads it any more, or the disk is full
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
    return _supervise(*resolved, lambda: _resolve(values, None))


def _resolve(values: Mapping[str, Any], model: Path | None) -> Resolved:
    """Merge all sources of settings.

    The model's .env is part of the environment, except for what is really set there.
    """
    texts = {key: None if values.get(key) is None else text_of(values[key]) for key in KEYS}
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
    return path if is_directory or path.suffix != loader.SUFFIX else path.parent


def _print_version() -> int:
    from obworker import __version__

    return _print(f"obworker {__version__}")


def _print_config(given: Settings, sources: Mapping[str, str], environ: Mapping[str, str]) -> int:
    """Print every setting in the form of a configuration file, with its source as a comment."""
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
        return text_of(value)
    return json.dumps(value, ensure_ascii=False)  # its escapes are TOML's


def _supervise(
    given: Settings, sources: Mapping[str, str], environ: dict[str, str], resolve: Resolve
) -> int:
    model = _model(given)
    if _has_script(model):
        given = _settings_of_script(given)
        _start_logging(given)
        loader.find_model_path(given.model_path, Path(model))
        return _supervise_script(Path(model), given, sources, environ, resolve)
    _start_logging(given)
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
        if not loader.is_there(path):
            raise UsageError(f"{model}: there is no such file or directory", _command_like(model))
        return path.is_dir() and _finds_file(path / SCRIPT)
    except OSError as error:
        raise loader.unreadable(model, error) from error


def _command_like(model: str) -> str | None:
    command = None if "/" in model else nearest(model, (*OPERATIONS, PREPACK))
    return command and f"did you mean the command obworker {command}?"


def _finds_file(script: Path) -> bool:
    if script.is_file():
        return True
    if os.path.lexists(script):
        raise LoadError(f"{script} is a directory, or a link to nothing")
    return False


def _start_logging(given: Settings) -> None:
    log.open_files(given)
    log.configure(given.log_level)


def _supervise_script(
    directory: Path,
    given: Settings,
    sources: Mapping[str, str],
    environ: dict[str, str],
    resolve: Resolve,
) -> int:
    signals = Signals(OF_MASTER)
    sockets = lent.from_systemd(environ)
    if sockets.main:
        raise UsageError(
            f"a {SCRIPT} listens by itself: it cannot be given a socket by systemd",
            hint="stop and disable the .socket unit",
        )
    _tell_idle(sources)
    port = _script_port(given, environ)
    if listeners.is_served(port):
        raise ListenError(f"port {port} is served by another program", "stop it, or use --port")
    surroundings = Surroundings(_for_script(environ), sockets.admin)

    def reread() -> tuple[Settings, dict[str, str]]:
        again, _, environ = resolve()
        return _settings_of_script(again), _for_script(environ)

    return Script(directory.absolute(), port, given, reread, signals, surroundings).run()


def _for_script(environ: dict[str, str]) -> dict[str, str]:
    """Empty what is its supervisor's: that counts as not set, and no .env sets it again."""
    return environ | dict.fromkeys(OF_SUPERVISOR & environ.keys(), "")


def _settings_of_script(given: Settings) -> Settings:
    """Leave the access log, if there is one, to the script; what it cannot be given is refused."""
    if given.certfile is not None:
        raise UsageError(
            f"--certfile: a {SCRIPT} listens by itself, and has to speak TLS by itself"
        )
    if given.api_key_file is not None:
        raise UsageError(f"--api-key-file: a {SCRIPT} has to ask for keys by itself")
    return dataclasses.replace(given, access_log=False)


def _tell_idle(given: Collection[str]) -> None:
    """Say which of the options that somebody gave mean nothing to a start.sh."""
    idle = [KEYS[key].flags[-1] for key in KEYS if key in given and key not in SCRIPT_OPTIONS]
    if idle:
        logger.warning("%-10s %s: a %s serves by itself", "no effect", ", ".join(idle), SCRIPT)


def _script_port(given: Settings, environ: Mapping[str, str]) -> int:
    """Return the port that a start.sh will serve on: it is told, and only that."""
    if given.bind is not None and ("," in given.bind or given.bind.startswith(("unix:", "fd:"))):
        raise UsageError(f"--bind: {given.bind!r}: a {SCRIPT} can only be told a port")
    wanted = given.port if given.bind is None else Address.parse(given.bind).port
    if wanted is not None:
        return wanted or listeners.free_port()
    return port_in(environ, "PORT", least=1) or SCRIPT_PORT


def _plan(
    given: Settings,
    sources: Mapping[str, str],
    environ: Mapping[str, str],
    gpus: Callable[[], Listing],
) -> Plan:
    """Work out what to keep running, at the start or for a reload."""
    from obworker.supervisor.plan import Plan

    file = loader.find(Path(_model(given)))
    loader.find_model_path(given.model_path, file.parent)
    return Plan.make(given, environ, FACTORY, sources, gpus)


def _supervise_predictor(
    given: Settings,
    environ: Mapping[str, str],
    plan: Callable[[], Plan],
    replan: Callable[[], Plan],
) -> int:
    from obworker.supervisor.master import Master

    # First: to process 1 of a container, a signal that has no handler is lost.
    signals = Signals(OF_MASTER)
    first = plan()
    sockets = lent.from_systemd(environ)
    surroundings = Surroundings(environ, sockets.admin)
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
