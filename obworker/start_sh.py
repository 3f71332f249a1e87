"""``obworker DIR`` where DIR has a start.sh: which settings apply, and which are refused."""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Collection, Mapping
from pathlib import Path

from obworker import log, log_files
from obworker.configuration import CONFIG_VARIABLE, Resolve
from obworker.environment import port_in
from obworker.errors import ListenError, UsageError
from obworker.predictor.model_files import resolve_model_path
from obworker.settings import KEYS, Settings
from obworker.supervisor import lent, listeners
from obworker.supervisor.listeners import Address
from obworker.supervisor.outside import Surroundings
from obworker.supervisor.script import SCRIPT, Script
from obworker.supervisor.signals import OF_MASTER, Signals

SCRIPT_PORT = 80
# Options that have an effect; certificates and API keys are refused.
SCRIPT_OPTIONS = {
    *("model", "bind", "port", "boot_timeout", "graceful_timeout"),
    *("admin_bind", "unix_mode", "control_socket", "log_file", "log_level"),
}
# Variables for the supervisor only: an obworker that is run by the start.sh must not see them.
OF_SUPERVISOR = {
    CONFIG_VARIABLE,
    *(KEYS[key].variable for key in ("model", "admin_bind", "control_socket", "log_file")),
}

logger = logging.getLogger("obworker.master")


def supervise(
    directory: Path,
    given: Settings,
    sources: Mapping[str, str],
    environ: dict[str, str],
    resolve: Resolve,
) -> int:
    """Supervise the start.sh of a directory, and return the exit code.

    `resolve` reads all settings anew, for a reload.

    Raises:
        UsageError: a setting, or a socket from systemd, cannot be passed to a script.
        ListenError: its port is in use.
    """
    given = _settings_of_script(given)
    log_files.open_files(given)
    log.configure(given.log_level)
    resolve_model_path(given.model_path, directory)
    signals = Signals(OF_MASTER)
    surroundings = Surroundings(_for_script(environ), _lent_admin(environ))
    _tell_idle(sources)
    port = _free_port(given, environ)

    def reread() -> tuple[Settings, dict[str, str]]:
        again, _, environ = resolve()
        return _settings_of_script(again), _for_script(environ)

    return Script(directory.absolute(), port, given, reread, signals, surroundings).run()


def _lent_admin(environ: Mapping[str, str]) -> socket.socket | None:
    """Return the socket that systemd lends the admin process, if it does."""
    sockets = lent.from_systemd(environ)
    if sockets.main:
        raise UsageError(
            f"a {SCRIPT} listens by itself: it cannot be given a socket by systemd",
            hint="stop and disable the .socket unit",
        )
    return sockets.admin


def _for_script(environ: dict[str, str]) -> dict[str, str]:
    """Empty the variables of its supervisor: empty is not set, and .env cannot set them again."""
    return environ | dict.fromkeys(OF_SUPERVISOR & environ.keys(), "")


def _settings_of_script(given: Settings) -> Settings:
    """Turn off the access log, and refuse what a script cannot be given."""
    if given.certfile is not None:
        raise UsageError(
            f"--certfile: a {SCRIPT} listens by itself, and has to speak TLS by itself"
        )
    if given.api_key_file is not None:
        raise UsageError(f"--api-key-file: a {SCRIPT} has to ask for keys by itself")
    return dataclasses.replace(given, access_log=False)


def _tell_idle(given: Collection[str]) -> None:
    """Log which of the given options have no effect on a start.sh."""
    idle = [KEYS[key].flags[-1] for key in KEYS if key in given and key not in SCRIPT_OPTIONS]
    if idle:
        logger.warning("%-10s %s: a %s serves by itself", "no effect", ", ".join(idle), SCRIPT)


def _free_port(given: Settings, environ: Mapping[str, str]) -> int:
    port = _script_port(given, environ)
    if listeners.is_served(port):
        raise ListenError(f"port {port} is served by another program", "stop it, or use --port")
    return port


def _script_port(given: Settings, environ: Mapping[str, str]) -> int:
    """Return the port that a start.sh will be told to serve on."""
    if given.bind is not None and ("," in given.bind or given.bind.startswith(("unix:", "fd:"))):
        raise UsageError(f"--bind: {given.bind!r}: a {SCRIPT} can only be told a port")
    wanted = given.port if given.bind is None else Address.parse(given.bind).port
    if wanted is not None:
        return wanted or listeners.free_port()
    return port_in(environ, "PORT", least=1) or SCRIPT_PORT
