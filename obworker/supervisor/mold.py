"""The process that imports the user's code once, and from which workers are forked.

Executed afresh for every generation, with nothing but a channel to the master and the listener.
It has no threads of its own. It forks twice for each worker: the process in between tells the
master the worker's pid and ends, so the worker becomes the master's own child, and the master knows
of every pid before it can possibly reap it.

The user's code runs here, so here it can crash, hang or exit without harm to what serves.
"""

from __future__ import annotations

import gc
import os
import pkgutil
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Protocol

from obworker import log
from obworker.errors import LoadError, ObworkerError
from obworker.settings import Settings
from obworker.supervisor import linux, worker
from obworker.supervisor.messages import (
    Channel,
    Load,
    Loaded,
    LoadFailed,
    Message,
    Spawn,
    Spawned,
)

if TYPE_CHECKING:
    from obworker.supervisor.worker import Blueprint


class Factory(Protocol):
    """What a Load message names: finds and imports the user's code."""

    def __call__(self, **arguments: object) -> Blueprint:
        """Return what workers are built from; raise ObworkerError for the user's mistakes."""


def main(channel_descriptor: int, listener_descriptor: int) -> None:
    """Run the mold."""
    master = os.getppid()
    channel = Channel(socket.socket(fileno=channel_descriptor))
    listener = socket.socket(fileno=listener_descriptor)
    channel.set_inheritable(False)  # the exec is over, and what the user's code runs has no need
    listener.set_inheritable(False)
    linux.die_with_parent(master)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    message, _ = channel.receive()
    if not isinstance(message, Load):
        os._exit(0)  # the master has gone
    settings = Settings(**message.settings)
    log.configure(settings.log_level)
    linux.set_title(f"mold g{message.generation} {message.label}")
    blueprint = _load(message, channel)
    _fork_on_order(channel, listener, blueprint, settings, master)


def _load(order: Load, channel: Channel) -> Blueprint:
    """Import the user's code, or say why it cannot be and exit."""
    started = time.monotonic()
    gc.disable()
    try:
        factory: Factory = pkgutil.resolve_name(order.factory)
        blueprint = factory(**order.arguments)
    except ObworkerError as error:
        _fail(channel, error, error.traceback)
    except BaseException as error:  # noqa: BLE001 the mold's seam: whatever it was, the master is told
        _fail(channel, LoadError(f"{type(error).__name__}: {error}"), traceback.format_exc())
    # Frozen objects are left alone by the workers' collections, so their pages stay shared.
    gc.enable()
    gc.collect()
    gc.freeze()
    description = [list(line) for line in blueprint.description]
    channel.send(Loaded(time.monotonic() - started, description, blueprint.body_kind))
    return blueprint


def _fail(channel: Channel, error: ObworkerError, text: str) -> None:
    channel.send(LoadFailed(str(error), error.hint, error.exit_code, text))
    os._exit(error.exit_code)


def _fork_on_order(
    channel: Channel,
    listener: socket.socket,
    blueprint: Blueprint,
    settings: Settings,
    master: int,
) -> None:
    while True:
        message, end = channel.receive()
        if message is None:
            os._exit(0)
        _fork(message, end, channel, worker.Context(listener, blueprint, settings, master))


def _fork(message: Message, end: Channel | None, channel: Channel, context: worker.Context) -> None:
    assert isinstance(message, Spawn)
    assert end is not None
    sys.stdout.flush()
    # Before the fork: hooks of os.register_at_fork run in the child before any line of ours. Every
    # order sets the same variables, so nothing of one slot's is left for the next.
    os.environ.update(message.environment)
    between = os.fork()
    if between == 0:
        try:
            pid = os.fork()
            if pid == 0:
                channel.close()
                worker.main(message, end, context)
            end.send(Spawned(pid))
        finally:
            os._exit(0)
    os.waitpid(between, 0)
    end.close()
