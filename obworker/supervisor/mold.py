"""The mold: the process that imports the user's code once, and from which workers are forked.

It is executed anew for every generation, with no descriptors but those of Inherited, and has no
threads of its own. It forks twice for each worker: the intermediate process sends the worker's pid
to the master and ends. So the worker becomes the master's own child, and the master knows every pid
before it can reap it.

The mold's memory is shared with its workers until somebody writes to it (fork(2)). So the mold also
makes what is large and the same for all: the onnx session, and what the predictor's preload()
returns.

The user's code runs here, where it can crash, hang or exit without harm to workers that serve. If
its import or preload() makes forking unsafe, *direct* workers import the code, each by itself.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pkgutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from obworker import log, log_files
from obworker.errors import BootError, LoadError, ObworkerError
from obworker.http.api_keys import ApiKeys
from obworker.http.exchange import Exchange
from obworker.settings import Settings
from obworker.supervisor import fork_safety, linux, signals, worker
from obworker.supervisor.certificates import Certificates
from obworker.supervisor.forks import one_process
from obworker.supervisor.messages import (
    Channel,
    Failed,
    Load,
    Loaded,
    Message,
    Spawn,
    Spawned,
)
from obworker.supervisor.scoreboard import Scoreboard
from obworker.supervisor.serving import Context
from obworker.supervisor.sources import fingerprint

if TYPE_CHECKING:
    import ssl

    from obworker.supervisor.blueprint import Blueprint


class Inherited:
    """The descriptors that were passed through the exec."""

    def __init__(
        self,
        channel: int,
        listeners: list[int],
        scoreboard: int,
        exchange: list[int],
        certificates: int,
    ) -> None:
        """Take the descriptors over; programs that the user's code runs do not inherit them."""
        for descriptor in (channel, *listeners, scoreboard, *exchange):
            os.set_inheritable(descriptor, False)
        self.master = os.getppid()
        linux.die_with_parent(self.master)
        linux.show_stacks_on_demand()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.channel = Channel(socket.socket(fileno=channel))
        self.listeners = tuple(socket.socket(fileno=listener) for listener in listeners)
        self.board = Scoreboard(scoreboard)
        self.exchange = Exchange(*exchange)
        self.certificates = Certificates.take(certificates)

    def context(
        self, order: Load, settings: Settings, blueprint: Blueprint, tls: ssl.SSLContext | None
    ) -> Context:
        """Return what a worker of this process needs to know."""
        return Context(
            self.listeners,
            self.board,
            self.exchange,
            blueprint,
            settings,
            ApiKeys.unpack(order.api_keys),
            tls,
            self.master,
        )


def main(channel: int, *descriptors: Any) -> None:
    """Run the mold; the arguments are those of Inherited."""
    inherited = Inherited(channel, *descriptors)
    order = _await(inherited.channel, Load)
    settings = _configure(order)
    linux.set_title(f"mold g{order.generation} {order.label}")
    context = _load(order, settings, inherited, is_mold=True)
    while True:
        spawn, end = inherited.channel.receive()
        if spawn is None:
            os._exit(0)
        _fork(spawn, end, inherited.channel, context)


def direct(channel: int, *descriptors: Any) -> None:
    """Run a worker that imports the code by itself; its slot's environment is set already."""
    inherited = Inherited(channel, *descriptors)
    order = _await(inherited.channel, Load)
    settings = _configure(order)
    spawn = _await(inherited.channel, Spawn)
    linux.set_title(spawn.title)
    linux.pin(spawn.cores)
    context = _load(order, settings, inherited, is_mold=False)
    os.environ.update(spawn.environment)  # overrides what the import has set, as in a fork
    worker.main(spawn, inherited.channel, context)


Kind = TypeVar("Kind", bound=Message)


def _await(channel: Channel, kind: type[Kind]) -> Kind:
    """Return the next message, which must be of that kind; exit if the master is gone."""
    message, _ = channel.receive()
    if not isinstance(message, kind):
        os._exit(0)
    return message


def _configure(order: Load) -> Settings:
    settings = Settings(**order.settings)
    log_files.reopen_files(settings)  # the inherited ones are those of the current generation
    log.configure(settings.log_level)
    signals.on_rotation(lambda: log_files.reopen_files(settings))
    return settings


def _load(order: Load, settings: Settings, inherited: Inherited, *, is_mold: bool) -> Context:
    """Load the certificate and import the user's code; if that fails, tell the master and exit.

    A mold also preloads what workers share, unless they will not be forked from it.
    """
    started, channel = time.monotonic(), inherited.channel
    unsafe: list[str] = []
    try:
        tls = inherited.certificates.context()
        with one_process("the import of predictor.py"):
            blueprint = _import(order)
        code = fingerprint(list(sys.modules.values()), Path.cwd())
        if is_mold:
            blueprint, unsafe = _preload(blueprint, is_forced=settings.preload == "on")
    except ObworkerError as error:
        _fail(channel, error)
    except BaseException as error:  # noqa: BLE001 the mold's seam: whatever it was, the master is told
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        _fail(channel, LoadError(text, traceback=traceback.format_exc()))
    channel.send(
        Loaded(
            seconds=time.monotonic() - started,
            description=[list(line) for line in blueprint.description],
            lacks=dict(blueprint.lacks),
            body_kind=blueprint.body_kind,
            unsafe=unsafe,
            fingerprint=code,
        )
    )
    return inherited.context(order, settings, blueprint, tls)


def _import(order: Load) -> Blueprint:
    """Import without garbage collections: what an import makes is there to stay."""
    gc.disable()
    try:
        factory: Callable[..., Blueprint] = pkgutil.resolve_name(order.factory)
        return factory(**order.arguments)
    finally:
        gc.enable()


def _preload(blueprint: Blueprint, *, is_forced: bool) -> tuple[Blueprint, list[str]]:
    """Make what workers share; also return why this process must not be forked, if so.

    In that case nothing is shared. If the import is the reason, nothing is made.
    """
    unsafe = fork_safety.problems()
    if unsafe and not is_forced:
        return blueprint, unsafe
    with one_process("preload()"):
        preloaded = blueprint.preload()
    # Frozen objects are left alone by the workers' collections, so their pages stay shared.
    gc.collect()
    gc.freeze()
    unsafe = [f"after preload: {problem}" for problem in fork_safety.problems()]
    return (blueprint if unsafe and not is_forced else preloaded), unsafe


def _fail(channel: Channel, error: ObworkerError) -> NoReturn:
    channel.send(Failed.of(error, was_loaded=False))
    os._exit(error.exit_code)


def _fork(message: Message, end: Channel | None, channel: Channel, context: Context) -> None:
    assert isinstance(message, Spawn)
    assert end is not None
    linux.flush_output()
    # Before the fork, as hooks of os.register_at_fork run in the child before any line of ours.
    # Every order sets the same variables, so none of one slot's is left for the next.
    os.environ.update(message.environment)
    fork_safety.release_thread_pools()
    between = _fork_or_say_why(end)
    if between == 0:
        try:
            pid = _fork_or_say_why(end)
            if pid == 0:
                channel.close()
                linux.pin(message.cores)
                worker.main(message, end, context)
            if pid is not None and not end.send(Spawned(pid)):  # the master has given it up
                os.kill(pid, signal.SIGKILL)
        finally:
            os._exit(0)
    if between is not None:
        with contextlib.suppress(ChildProcessError):  # the user's code handles SIGCHLD
            os.waitpid(between, 0)
    end.close()


def _fork_or_say_why(end: Channel) -> int | None:
    """Fork like os.fork(); if the kernel makes no process, tell the master and return None."""
    try:
        return os.fork()
    except OSError as error:
        why = BootError(f"could not be made: {linux.why_no_process(error)}")
        end.send(Failed.of(why, was_loaded=True))
        return None
