"""Which environment this is: a developer's machine, a gear (workspace), or production.

Gear is checked before production, as on the platform itself.
"""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import TYPE_CHECKING

import dotenv

from obworker.errors import UsageError
from obworker.values import LAST_PORT, is_port

if TYPE_CHECKING:
    from collections.abc import Mapping

GEAR_VARIABLE = "OPENBAYES_JOB_URL"
PRODUCTION_VARIABLE = "OPENBAYES_SERVING_PRODUCTION"
LOCAL_PORT_VARIABLE = "OPENBAYES_SERVING_PORT"
# of prometheus_client
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

PRODUCTION_PORT = 80
GEAR_PORT = 8080
LOCAL_PORT = 25252


class Environment(enum.Enum):
    """The three environments."""

    LOCAL = "local"
    GEAR = "gear"
    PRODUCTION = "production"


def detect(environ: Mapping[str, str]) -> Environment:
    """Return the environment, by the variables in `environ`."""
    if environ.get(GEAR_VARIABLE):
        return Environment.GEAR
    if environ.get(PRODUCTION_VARIABLE):
        return Environment.PRODUCTION
    return Environment.LOCAL


def default_port(environ: Mapping[str, str]) -> tuple[int, str]:
    """Return the default port, and the reason for it."""
    where = detect(environ)
    if where is Environment.GEAR:
        return GEAR_PORT, f"{where.value}: {GEAR_VARIABLE} is set"
    if where is Environment.PRODUCTION:
        return PRODUCTION_PORT, f"{where.value}: {PRODUCTION_VARIABLE} is set"
    port = port_in(environ, LOCAL_PORT_VARIABLE, least=0)
    return (LOCAL_PORT, "default") if port is None else (port, f"environment {LOCAL_PORT_VARIABLE}")


def port_in(environ: Mapping[str, str], variable: str, *, least: int) -> int | None:
    """Return the port in a variable of the platform, if it is set."""
    text = environ.get(variable)
    if not text:
        return None
    if not is_port(text, least):
        raise UsageError(f"{variable}: {text!r} is not a port from {least} to {LAST_PORT}")
    return int(text)


def with_dotenv(environ: Mapping[str, str], directory: Path | None) -> dict[str, str]:
    """Return `environ` with what the .env in a model directory adds to it."""
    path = directory and directory / ".env"
    # Path.is_file raises without permission, which is reported later.
    if path is None or not os.path.isfile(path):  # noqa: PTH113
        return dict(environ)
    try:
        found = {
            key: value for key, value in dotenv.dotenv_values(path).items() if value is not None
        }
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if any("\0" in key + value for key, value in found.items()):
        raise UsageError(f"{path}: a NUL byte cannot be in an environment variable")
    if illegal := [key for key in found if "=" in key]:
        raise UsageError(f"{path}: {illegal[0]!r} cannot be the name of an environment variable")
    return found | dict(environ)


def metrics_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory in which predictor.py's metrics are kept, if there is one; make it.

    prometheus_client fails where the directory is not there.

    Raises:
        UsageError: it cannot be made, or its path is relative: predictor.py runs in its own
            directory, so the same path would mean another one there.
    """
    name = environ.get(METRICS_VARIABLE)
    if not name:
        return None
    directory = Path(name)
    if not directory.is_absolute():
        raise UsageError(f"{METRICS_VARIABLE}: {name} is not an absolute path")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{METRICS_VARIABLE}: cannot make {name}: {error.strerror}") from error
    return directory
