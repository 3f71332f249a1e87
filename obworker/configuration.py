"""The sources of settings: command line, environment and file; and which one wins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from obworker.errors import UsageError, did_you_mean
from obworker.options import ENVIRONMENT_PREFIX, Option, as_text
from obworker.settings import KEYS, OPTIONS, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"
# Variables that are no options: the configuration file, and those that are set for workers.
OTHER_VARIABLES = {CONFIG_VARIABLE, "OBWORKER_SLOT", "OBWORKER_DEVICES"}

Resolved = tuple[Settings, dict[str, str], dict[str, str]]
"""The settings, the source of each that was given, and the environment."""

Resolve = Callable[[], Resolved]
"""Reads all sources of settings anew, for a reload."""


class Given(NamedTuple):
    """A value as it was written, its source, and the name by which errors refer to it."""

    text: str
    source: str
    name: str


def from_command_line(arguments: Mapping[str, str | None]) -> dict[str, Given]:
    """Return the options given on the command line; `arguments` maps keys to text."""
    return {
        key: Given(text, "command line", KEYS[key].flags[-1])
        for key, text in arguments.items()
        if text is not None
    }


def from_environ(environ: Mapping[str, str]) -> dict[str, Given]:
    """Return the ``OBWORKER_*`` variables that name an option; an empty one counts as not set."""
    return {
        option.key: Given(text, f"environment {option.variable}", option.variable)
        for option in OPTIONS
        if (text := environ.get(option.variable))
    }


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the ``OBWORKER_*`` variables that name no option, most likely by a typing mistake."""
    known = {option.variable for option in OPTIONS} | OTHER_VARIABLES
    return sorted(name for name in environ.keys() - known if name.startswith(ENVIRONMENT_PREFIX))


def from_file(path: Path) -> dict[str, Given]:
    """Read a TOML file of ``key = value`` lines.

    Raises:
        UsageError: the file cannot be read, is not TOML, or has an unknown key.
    """
    try:
        return _given_by(path, tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise UsageError(f"--config: cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # RecursionError: for deeply nested lists
        raise UsageError(f"{path}: is not TOML: {error}") from error


def _given_by(path: Path, table: Mapping[str, object]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for written, value in table.items():
        key = written.replace("-", "_")
        if key in found:
            raise UsageError(f"{path}: {key} is set twice")
        if key not in KEYS:
            known = f"{did_you_mean(key, KEYS)}; known keys: {', '.join(KEYS)}"
            raise UsageError(f"{path}: unknown key {written!r}{known}")
        found[key] = _given_in(path, written, KEYS[key], value)
    return found


def _given_in(path: Path, key: str, option: Option, value: object) -> Given:
    if isinstance(value, list):
        value = ",".join(as_text(item) for item in value)
    if not isinstance(value, str | int | float):
        raise UsageError(f"{path}: {key}: a value is text, a number, true, false or a list of them")
    if option.is_octal and not isinstance(value, str):  # 0o660 was parsed to 432
        raise UsageError(f'{path}: {key}: permissions are text such as "660", not a number')
    text = as_text(value)
    if "\0" in text:
        raise UsageError(f"{path}: {key}: no value has a NUL byte")
    return Given(text, f"file {path}", f"{path}: {key}")


def resolve(*layers: Mapping[str, Given]) -> tuple[Settings, dict[str, str]]:
    """Merge layers, the first winning; return the settings and where each value came from.

    Raises:
        UsageError: the value of an option is invalid.
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
    _choose_bind_or_port(layers, values)
    return Settings(**values), sources


def _choose_bind_or_port(layers: tuple[Mapping[str, Given], ...], values: dict[str, Any]) -> None:
    """Let the first layer with an address decide between bind and host/port."""
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
