"""Every option, declared once: type, default, help, environment variable, file key.

The command line, ``--help``, ``--print-config``, the configuration file, the environment and
docs/configuration.md all come from the fields of `Settings`. Values arrive as text from wherever
they were written and are parsed in one place, so a mistake reads the same everywhere.

Precedence: command line, environment (``OBWORKER_*``), file, default.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from obworker.errors import UsageError, did_you_mean
from obworker.values import (
    Parse,
    absolute_path,
    address,
    address_or_off,
    choice,
    devices,
    flag,
    nonempty,
    seconds,
    size,
    size_or_off,
    whole_number,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENVIRONMENT_PREFIX = "OBWORKER_"
CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"
# Variables that are no options: the configuration file's, and those that a worker finds set.
OTHER_VARIABLES = {CONFIG_VARIABLE, "OBWORKER_SLOT", "OBWORKER_DEVICES"}
LOG_LEVELS = ("debug", "info", "warning", "error")


def option(
    *flags: str,
    parse: Parse,
    group: str,
    help: str,
    metavar: str | None = None,
    default: Any = None,
    shown: str | None = None,
) -> Any:
    """Declare one option.

    `metavar` is what its value is called, none for a flag; `shown` describes a default that is
    worked out at start.
    """
    metadata = {
        "flags": flags,
        "parse": parse,
        "group": group,
        "help": help,
        "metavar": metavar,
        "shown": shown,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The value of every option. Times are seconds, sizes are bytes."""

    # fmt: off
    model: str | None = option(
        "MODEL", metavar="MODEL", parse=nonempty, group="Model", shown="required",
        help="Directory with a predictor.py or a start.sh, or the path of a predictor.py.",
    )
    class_name: str | None = option(
        "--class", metavar="NAME", parse=nonempty, group="Model",
        shown="Predictor, or the only class with predict",
        help="Class in predictor.py to serve.",
    )
    model_path: str | None = option(
        "--model-path", metavar="PATH", parse=nonempty, group="Model",
        shown="the only *.onnx beside predictor.py",
        help="ONNX file, or the directory to look for it in.",
    )
    bind: str | None = option(
        "-b", "--bind", metavar="ADDRESS", parse=address, group="Server",
        shown="HOST:PORT from --host and --port",
        help="Address to serve on: HOST:PORT, [IPV6]:PORT or unix:PATH.",
    )
    host: str = option(
        "--host", metavar="HOST", parse=nonempty, group="Server",
        default="0.0.0.0",  # noqa: S104 the contract's
        help="Host to serve on.",
    )
    port: int | None = option(
        "--port", metavar="PORT", parse=whole_number(0, 65535), group="Server",
        shown="80 in production, 8080 in a gear, else $OPENBAYES_SERVING_PORT or 25252",
        help="Port to serve on; 0 takes a free one. For a start.sh, the port it will listen on.",
    )
    backlog: int = option(
        "--backlog", metavar="N", parse=whole_number(1), group="Server", default=2048,
        help="Connections the kernel may hold before a worker accepts them.",
    )
    workers: int | None = option(
        "-w", "--workers", metavar="N", parse=whole_number(1, 1024), group="Workers",
        shown="--workers-per-gpu for each GPU, else 1",
        help="Worker processes.",
    )
    threads: int = option(
        "--threads", metavar="N", parse=whole_number(1, 1024), group="Workers", default=1,
        help="Calls of predict at once in each worker.",
    )
    gpus: str = option(
        "--gpus", metavar="LIST", parse=devices, group="Workers", default="auto",
        help="GPUs to use: auto, none, or a list of indices or UUIDs. Indices count what"
        " CUDA_VISIBLE_DEVICES leaves visible.",
    )
    workers_per_gpu: int = option(
        "--workers-per-gpu", metavar="N", parse=whole_number(1, 1024), group="Workers", default=1,
        help="Workers for each GPU where --workers is not given.",
    )
    preload: str = option(
        "--preload", metavar="WHEN", parse=choice("auto", "on", "off"), group="Workers",
        default="auto",
        help="Import predictor.py once and fork the workers: auto (unless the import made forking"
        " unsafe), on, or off (each worker imports it).",
    )
    reload_strategy: str = option(
        "--reload-strategy", metavar="HOW", parse=choice("auto", "surge", "replace"),
        group="Workers", default="auto",
        help="How a worker is replaced: surge (the new one is ready before the old one goes),"
        " replace (the old one goes first), or auto (surge, unless memory is too short for two).",
    )
    max_requests: int = option(
        "--max-requests", metavar="N", parse=whole_number(0), group="Workers", default=0,
        help="Replace a worker after so many requests, the new one ready first. 0: never.",
    )
    max_requests_jitter: int | None = option(
        "--max-requests-jitter", metavar="N", parse=whole_number(0), group="Workers",
        shown="a tenth of that",
        help="Most by which --max-requests is raised, at random for each worker.",
    )
    max_worker_memory: int = option(
        "--max-worker-memory", metavar="SIZE", parse=size_or_off, group="Workers", default=0,
        shown="off",
        help="Replace a worker whose resident memory is above this, the new one ready first.",
    )
    admin_bind: str | None = option(
        "--admin-bind", metavar="ADDRESS", parse=address_or_off, group="Health",
        shown="127.0.0.1:25253, where it is free",
        help="Address of /livez, /readyz and /healthz: HOST:PORT, [IPV6]:PORT, unix:PATH or off.",
    )
    min_ready: int = option(
        "--min-ready", metavar="N", parse=whole_number(1, 1024), group="Health", default=1,
        help="Workers that must be ready before the service is: for /readyz and systemd.",
    )
    health_interval: float = option(
        "--health-interval", metavar="SECONDS", parse=seconds(zero=True), group="Health",
        default=10.0,
        help="How often a worker calls the predictor's health(), if it has one. 0: never.",
    )
    health_timeout: float = option(
        "--health-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Health",
        default=5.0,
        help="Longest health() may take; longer replaces the worker, as three failures in a row"
        " do.",
    )
    control_socket: str | None = option(
        "--control-socket", metavar="PATH", parse=nonempty, group="Health",
        shown="PID.sock in $XDG_RUNTIME_DIR/obworker, /run/obworker or /tmp/obworker-UID",
        help="Unix socket for obworker status, reload, scale, stop and stacks; or off.",
    )
    timeout: float = option(
        "-t", "--timeout", metavar="SECONDS", parse=seconds(zero=True), group="Timeouts",
        default=300.0,
        help="Longest a predict may take; then the client gets 504 and the worker is replaced."
        " 0: no limit.",
    )
    load_timeout: float = option(
        "--load-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=600.0,
        help="Longest the import of predictor.py may take.",
    )
    boot_timeout: float = option(
        "--boot-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=600.0,
        help="Longest a worker may take to build the predictor, or a start.sh to answer.",
    )
    graceful_timeout: float = option(
        "--graceful-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=25.0,
        help="Longest a stop waits for requests in progress; then processes are killed.",
    )
    keep_alive: float = option(
        "--keep-alive", metavar="SECONDS", parse=seconds(zero=True), group="Timeouts", default=75.0,
        help="How long an idle connection is kept open. 0: one request a connection.",
    )
    header_timeout: float = option(
        "--header-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=10.0,
        help="Longest a client may take to send a request's header, from its first byte.",
    )
    body_timeout: float = option(
        "--body-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=30.0,
        help="Longest a client may pause while it sends a body or reads an answer.",
    )
    limit_request_line: int = option(
        "--limit-request-line", metavar="SIZE", parse=size, group="Limits", default=8190,
        help="Longest request line in bytes; past it 414.",
    )
    limit_request_fields: int = option(
        "--limit-request-fields", metavar="N", parse=whole_number(1), group="Limits", default=100,
        help="Most header fields in a request; past it 431.",
    )
    limit_request_field_size: int = option(
        "--limit-request-field-size", metavar="SIZE", parse=size, group="Limits", default=8190,
        help="Longest header field in bytes; past it 431.",
    )
    limit_request_body: int = option(
        "--limit-request-body", metavar="SIZE", parse=size, group="Limits",
        default=100 << 20, shown="100MiB",
        help="Largest request body, such as 100MiB; past it 413.",
    )
    log_file: str | None = option(
        "--log-file", metavar="PATH", parse=absolute_path, group="Logging", shown="standard error",
        help="File for the log, appended to; opened again on SIGUSR1.",
    )
    access_log_file: str | None = option(
        "--access-log-file", metavar="PATH", parse=absolute_path, group="Logging",
        shown="standard output",
        help="File for the access log, appended to; opened again on SIGUSR1.",
    )
    log_level: str = option(
        "--log-level", metavar="LEVEL", parse=choice(*LOG_LEVELS), group="Logging", default="info",
        help=f"Least severity to log: {', '.join(LOG_LEVELS)}.",
    )
    access_log: bool = option(
        "--access-log", parse=flag, group="Logging", default=True, help="Log every request.",
    )
    # fmt: on


class Option(NamedTuple):
    """One option as the command line, the file and the documentation need to see it."""

    field: str
    key: str
    flags: tuple[str, ...]
    parse: Parse
    group: str
    help: str
    metavar: str | None
    default: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def is_flag(self) -> bool:
        """Whether the command line gives it without a value."""
        return self.parse is flag


def _options() -> Iterator[Option]:
    for field in dataclasses.fields(Settings):
        facts = field.metadata
        key = facts["flags"][-1].lstrip("-").replace("-", "_").lower()
        yield Option(
            field=field.name,
            key=key,
            flags=facts["flags"],
            parse=facts["parse"],
            group=facts["group"],
            help=facts["help"],
            metavar=facts["metavar"],
            default=facts["shown"] or text_of(field.default),
        )


def text_of(value: object) -> str:
    """Write a value the way it could be given: sizes and whole seconds without a fraction."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


OPTIONS = tuple(_options())
KEYS = {option.key: option for option in OPTIONS}


class Given(NamedTuple):
    """A value as somebody wrote it: where, and under what name to complain of it."""

    text: str
    source: str
    name: str


def from_command_line(arguments: Mapping[str, str | None]) -> dict[str, Given]:
    """Take the options given on the command line; `arguments` maps keys to text."""
    return {
        key: Given(text, "command line", KEYS[key].flags[-1])
        for key, text in arguments.items()
        if text is not None
    }


def from_environ(environ: Mapping[str, str]) -> dict[str, Given]:
    """Take the ``OBWORKER_*`` variables that name an option; an empty one counts as not set."""
    return {
        option.key: Given(text, f"environment {option.variable}", option.variable)
        for option in OPTIONS
        if (text := environ.get(option.variable))
    }


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the ``OBWORKER_*`` variables that name no option: typing mistakes, most likely."""
    known = {option.variable for option in OPTIONS} | OTHER_VARIABLES
    return sorted(name for name in environ.keys() - known if name.startswith(ENVIRONMENT_PREFIX))


def from_file(path: Path) -> dict[str, Given]:
    """Read a TOML file of ``key = value`` lines.

    Raises:
        UsageError: the file cannot be read, is not TOML, or has an unknown key.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config: cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error
    found: dict[str, Given] = {}
    for written, value in table.items():
        key = written.replace("-", "_")
        if key in found:
            raise UsageError(f"{path}: {key} is set twice")
        found[key] = _given_in(path, written, value)
    return found


def _given_in(path: Path, key: str, value: object) -> Given:
    if key.replace("-", "_") not in KEYS:
        nearest = did_you_mean(key.replace("-", "_"), KEYS)
        raise UsageError(f"{path}: unknown key {key!r}{nearest}; known keys: {', '.join(KEYS)}")
    if isinstance(value, list):
        value = ",".join(text_of(item) for item in value)
    if not isinstance(value, str | int | float):
        raise UsageError(f"{path}: {key}: a value is text, a number, true, false or a list of them")
    return Given(text_of(value), f"file {path}", f"{path}: {key}")


def resolve(*layers: Mapping[str, Given]) -> tuple[Settings, dict[str, str]]:
    """Merge layers, the first winning; return the settings and where each value came from.

    Raises:
        UsageError: a value is not what its option takes, named as it was written.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        given = next((layer[option.key] for layer in layers if option.key in layer), None)
        if given is None:
            continue
        try:
            values[option.field] = option.parse(given.text)
        except ValueError as error:
            raise UsageError(f"{given.name}: {error}") from error
        sources[option.key] = given.source
    _drop_the_lesser_address(layers, values)
    return Settings(**values), sources


def _drop_the_lesser_address(
    layers: tuple[Mapping[str, Given], ...], values: dict[str, Any]
) -> None:
    """Let the layer that speaks first of the address decide between bind and host/port."""
    for layer in layers:
        parts = [key for key in ("host", "port") if key in layer]
        if "bind" in layer and parts:
            raise UsageError(
                f"{layer['bind'].name} and {layer[parts[0]].name} both say where to listen",
                hint="give the one or the other",
            )
        if parts:
            values.pop("bind", None)
        if "bind" in layer or parts:
            return
