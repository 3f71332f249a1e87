"""The process that imports the user's code once, and from which workers are forked.

Executed afresh for every generation, with nothing but a channel to the master and the listener.
It has no threads of its own. It forks twice for each worker: the process in between tells the
master the worker's pid and ends, so the worker becomes the master's own child, and the master knows
of every pid before it can possibly reap it.

The user's code runs here, so here it can crash, hang or exit without harm to what serves. Where it
made forking unsafe, a *direct* worker does the same and then serves by itself.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from obworker import log
from obworker.errors import LoadError, ObworkerError
from obworker.http.api_keys import ApiKeys
from obworker.settings import Settings
from obworker.supervisor import fork_safety, linux, signals, worker
from obworker.supervisor.messages import (
    Channel,
    Load,
    Loaded,
    LoadFailed,
    Message,
    Spawn,
    Spawned,
)
from obworker.supervisor.scoreboard import Scoreboard
from obworker.supervisor.serving import Context
from obworker.supervisor.sources import fingerprint

if TYPE_CHECKING:
    from obworker.supervisor.blueprint import Blueprint


class Factory(Protocol):
    """What a Load message names: finds and imports the user's code."""

    def __call__(self, **arguments: object) -> Blueprint:
        """Return what workers are built from; raise ObworkerError for the user's mistakes."""


@dataclass(frozen=True)
class Inherited:
    """What was passed through the exec."""

    channel: Channel
    listener: socket.socket
    board: Scoreboard
    master: int

    @classmethod
    def take(cls, channel: int, listener: int, scoreboard: int) -> Inherited:
        """Take the descriptors over; what the user's code runs has no need of them."""
        for descriptor in (channel, listener, scoreboard):
            os.set_inheritable(descriptor, False)
        master = os.getppid()
        linux.die_with_parent(master)
        linux.show_stacks_on_demand()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return cls(
            Channel(socket.socket(fileno=channel)),
            socket.socket(fileno=listener),
            Scoreboard(scoreboard),
            master,
        )

    def context(self, blueprint: Blueprint, settings: Settings, order: Load) -> Context:
        """Return what a worker of this process needs to know."""
        keys = ApiKeys.unpack(order.api_keys)
        return Context(self.listener, self.board, blueprint, settings, keys, self.master)


def main(channel: int, listener: int, scoreboard: int) -> None:
    """Run the mold; arguments are descriptors."""
    inherited = Inherited.take(channel, listener, scoreboard)
    order = _await(inherited.channel, Load)
    settings = _configure(order)
    linux.set_title(f"mold g{order.generation} {order.label}")
    blueprint = _load(order, inherited.channel, is_mold=True)
    context = inherited.context(blueprint, settings, order)
    while True:
        spawn, end = inherited.channel.receive()
        if spawn is None:
            os._exit(0)
        _fork(spawn, end, inherited.channel, context)


def direct(channel: int, listener: int, scoreboard: int) -> None:
    """Run a worker that imports the code by itself; its slot's environment is set already."""
    inherited = Inherited.take(channel, listener, scoreboard)
    order = _await(inherited.channel, Load)
    settings = _configure(order)
    spawn = _await(inherited.channel, Spawn)
    linux.set_title(spawn.title)
    blueprint = _load(order, inherited.channel, is_mold=False)
    worker.main(spawn, inherited.channel, inherited.context(blueprint, settings, order))


Kind = TypeVar("Kind", bound=Message)


def _await(channel: Channel, kind: type[Kind]) -> Kind:
    """Return the message of that kind that must come now; exit where the master has gone."""
    message, _ = channel.receive()
    if not isinstance(message, kind):
        os._exit(0)
    return message


def _configure(order: Load) -> Settings:
    settings = Settings(**order.settings)
    log.configure(settings.log_level)
    signals.on_rotation(lambda: log.reopen_files(settings))
    return settings


def _load(order: Load, channel: Channel, *, is_mold: bool) -> Blueprint:
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
    gc.enable()
    if is_mold:
        # Frozen objects are left alone by the workers' collections, so their pages stay shared.
        gc.collect()
        gc.freeze()
    channel.send(
        Loaded(
            seconds=time.monotonic() - started,
            description=[list(line) for line in blueprint.description],
            body_kind=blueprint.body_kind,
            unsafe=fork_safety.problems() if is_mold else [],
            fingerprint=fingerprint(list(sys.modules.values()), Path.cwd()),
        )
    )
    return blueprint


def _fail(channel: Channel, error: ObworkerError, text: str) -> None:
    channel.send(LoadFailed(str(error), error.hint, error.exit_code, text))
    os._exit(error.exit_code)


def _fork(message: Message, end: Channel | None, channel: Channel, context: Context) -> None:
    assert isinstance(message, Spawn)
    assert end is not None
    sys.stdout.flush()
    # Before the fork: hooks of os.register_at_fork run in the child before any line of ours. Every
    # order sets the same variables, so nothing of one slot's is left for the next.
    os.environ.update(message.environment)
    fork_safety.release_thread_pools()
    between = os.fork()
    if between == 0:
        try:
            pid = os.fork()
            if pid == 0:
                channel.close()
                worker.main(message, end, context)
            if not end.send(Spawned(pid)):  # given up meanwhile: nobody would know of it
                os.kill(pid, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(between, 0)
    end.close()
