"""One worker process: takes its slot's devices, builds the predictor, serves until told to stop.

It ends by os._exit: finalisers of libraries that were loaded before the fork join threads that
exist only in the mold, and hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import psutil
import threadpoolctl
import uvloop

from obworker import log
from obworker.errors import BootError, ObworkerError
from obworker.http.cycle import Cycle, StartResponse
from obworker.http.environ import Environ
from obworker.http.server import Server
from obworker.settings import Settings
from obworker.supervisor import linux, listeners, signals
from obworker.supervisor.health_checks import HealthChecks
from obworker.supervisor.messages import (
    BootFailed,
    Channel,
    Drain,
    Leaving,
    Ready,
    Recycle,
    Serve,
    Spawn,
)
from obworker.supervisor.probes import Probes
from obworker.supervisor.recycling import Recycling
from obworker.supervisor.rows import RowMonitor
from obworker.supervisor.scoreboard import Scoreboard

logger = logging.getLogger("obworker.worker")

EXIT_DRAINED = 0
EXIT_LOST = 1
"""The predictor's background thread failed, a predict never came back, or the master went."""

ADOPTION_TIMEOUT = 5.0
WIND_UP_TIMEOUT = 2.0
# The share of the graceful timeout after which a worker begins nothing new.
REFUSING_AFTER = 0.9
# The master kills a worker that is late. One that drains without the master's knowledge ends by
# itself so much later, so that of the two it is always the master who says why.
UNNOTICED_MARGIN = 1.0
RECYCLING_INTERVAL = 0.25


class Predictions(Protocol):
    """The WSGI application; at most `most_calls` of it are to run at once, where that is set."""

    @property
    def most_calls(self) -> int | None:
        """How many threads may call it."""

    @property
    def check_health(self) -> Callable[[], None] | None:
        """What raises Unhealthy where the predictor is not well, if it can tell."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""


def threads_for(application: Predictions, settings: Settings) -> int:
    """Return how many threads call predict."""
    return min(settings.threads, application.most_calls or settings.threads)


class Blueprint(Protocol):
    """User code that was imported and checked; each worker builds its own predictor from it."""

    @property
    def description(self) -> Sequence[Sequence[str]]:
        """Label and text of each line of the start-up report."""

    @property
    def body_kind(self) -> str:
        """What a request's body is to the predictor: json, data or none."""

    def boot(self, threads: int, on_fatal: Callable[[], None]) -> Predictions:
        """Build the predictor with so many native threads.

        `on_fatal` is called once, from any thread, when the predictor cannot go on.

        Raises:
            BootError: the predictor cannot be built.
        """

    def reaches_predict(self, method: str, path: str) -> bool:
        """Whether a request has to wait for a free thread; others are answered at once."""

    def wind_up(self, timeout: float) -> None:
        """Finish what requests left behind, within `timeout` seconds."""


@dataclass(frozen=True)
class Context:
    """What a worker has from its mold."""

    listener: socket.socket
    board: Scoreboard
    blueprint: Blueprint
    settings: Settings
    master: int


def main(order: Spawn, channel: Channel, context: Context) -> None:
    """Run a worker in this process, which was just forked, and end the process."""
    code = EXIT_LOST
    try:
        _take_slot(order, context.master)
        served = Worker(order, channel, context)
        application = served.boot()
        code = uvloop.new_event_loop().run_until_complete(served.serve(application))
    except ObworkerError as error:
        channel.send(BootFailed(str(error), error.hint, error.traceback))
        code = error.exit_code
    except BaseException:  # the worker's seam: nothing of the mold's may run after it
        logger.exception("worker %d failed", order.slot)
    finally:
        leave(code)


def leave(code: int) -> None:
    """End this process without running any finaliser."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _take_slot(order: Spawn, master: int) -> None:
    """Become the worker of a slot; its environment was set before the fork."""
    with contextlib.suppress(PermissionError):  # a direct worker leads its session already
        os.setsid()
    signals.restore_defaults()
    linux.show_stacks_on_demand()
    linux.set_title(order.title)
    _be_adopted(master)
    _reseed()
    _use_threads(order.threads)


def _be_adopted(master: int) -> None:
    """Wait until the process in between has ended, then be tied to the master."""
    deadline = time.monotonic() + ADOPTION_TIMEOUT
    while os.getppid() != master and time.monotonic() < deadline:
        time.sleep(0.0005)
    if not linux.die_with_parent(master):
        leave(EXIT_LOST)


def _reseed() -> None:
    """Draw other random numbers than the other forks of the same mold."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _use_threads(count: int) -> None:
    """Give native libraries the worker's share of the cores, which the mold kept from them.

    Those that are loaded do not look at their environment variables any more.
    """
    threadpoolctl.threadpool_limits(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


class Worker:
    """Serves one slot until it is drained."""

    def __init__(self, order: Spawn, channel: Channel, context: Context) -> None:
        self._slot = order.slot
        self._threads = order.threads
        self._channel = channel
        self._context = context
        self._code = EXIT_DRAINED
        self._stuck = 0
        # Done when the predictor cannot go on: from any thread, maybe before there is a loop.
        self._fatal: Future[None] = Future()
        self._row = context.board.seat(order.slot, order.seat)

    def boot(self) -> Predictions:
        """Build the predictor."""
        context = self._context
        application = context.blueprint.boot(self._threads, lambda: self._fatal.set_result(None))
        return Probes(application, context.board)

    async def serve(self, application: Predictions) -> int:
        """Serve until drained; return the exit code."""
        loop = asyncio.get_running_loop()
        context, settings = self._context, self._context.settings
        self._server = Server(
            application,
            context.listener,
            settings,
            threads=threads_for(application, settings),
            must_queue=context.blueprint.reaches_predict,
            on_overdue=self._overdue,
            monitor=RowMonitor(self._row),
        )
        self._server.executors.start()
        self._listen()
        loop.add_signal_handler(signal.SIGTERM, self._leave, "was told to stop by SIGTERM")
        loop.add_signal_handler(signal.SIGQUIT, leave, EXIT_DRAINED)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        loop.add_reader(self._channel.fileno(), self._read_order, loop)
        self._channel.send(Ready())
        self._fatal.add_done_callback(lambda _: loop.call_soon_threadsafe(self._run_failed))
        self._watches = [
            loop.create_task(self._check_health(application)),
            loop.create_task(self._watch_limits(time.monotonic())),
        ]
        await self._server.drained.wait()
        context.blueprint.wind_up(WIND_UP_TIMEOUT)
        return self._code

    def _listen(self) -> None:
        """Listen, so that whoever is told of us finds the port open; accept when told to."""
        listeners.claim(self._context.listener, alone=False)
        try:
            self._context.listener.listen(self._context.settings.backlog)
        except OSError as error:
            raise BootError(f"cannot listen: {error.strerror}") from error

    def _reopen_logs(self) -> None:
        log.reopen_files(self._context.settings)
        self._server.reopen_access_log()

    # what may end it

    def _read_order(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do as the master says; drain, too, when it is gone."""
        message, _ = self._channel.receive()
        if isinstance(message, Serve):
            self._server.start()
            return
        loop.remove_reader(self._channel.fileno())
        self._channel.send(Leaving("was told to drain"))
        self._drain(empty_queue=message.empty_queue if isinstance(message, Drain) else True)

    def _run_failed(self) -> None:
        self._code = EXIT_LOST
        self._leave("run() failed")

    async def _check_health(self, application: Predictions) -> None:
        settings = self._context.settings
        self._health = HealthChecks(
            application.check_health,
            self._server.executors,
            interval=settings.health_interval,
            timeout=settings.health_timeout,
            on_unhealthy=self._unhealthy,
        )
        await self._health.run()

    def _unhealthy(self, reason: str) -> None:
        if self._health.holds_thread:
            self._lose_thread()
        self._code = EXIT_LOST
        self._leave(reason)

    async def _watch_limits(self, since: float) -> None:
        """Ask to be replaced when there is a reason to, and serve on until then."""
        settings = self._context.settings
        recycling = Recycling.draw(
            settings.max_requests,
            settings.max_requests_jitter,
            settings.max_worker_memory,
            chance=random.random,
        )
        process = psutil.Process()
        while not (
            reason := recycling.why(
                requests=self._row.requests,
                memory=process.memory_info().rss,
                served_for=time.monotonic() - since,
            )
        ):
            await asyncio.sleep(RECYCLING_INTERVAL)
        self._channel.send(Recycle(reason))

    def _overdue(self, cycle: Cycle) -> None:
        """Say what a predict is that never came back, and make room for a worker that works."""
        age = time.monotonic() - cycle.received
        logger.error("worker %d: %s took over %.1f s", self._slot, cycle.request.line, age)
        self._lose_thread()
        self._code = EXIT_LOST
        self._leave("a predict is past its deadline")

    def _lose_thread(self) -> None:
        """Say what every thread is doing, one of which is lost.

        Without another, what is queued has nobody to wait for.
        """
        faulthandler.dump_traceback(all_threads=True)
        self._stuck += 1
        if self._stuck >= self._server.executors.threads:
            self._server.refuse_queued()

    # how it ends

    def _leave(self, reason: str) -> None:
        """Answer what has come, and make room for another worker."""
        self._channel.send(Leaving(reason))
        self._drain(empty_queue=False)

    def _drain(self, *, empty_queue: bool) -> None:
        """Answer what has come, but not for ever: nobody else may know that this worker leaves.

        What is still queued near the end gets a 503: it is nobody's fault but the time's.
        """
        for watch in self._watches:
            watch.cancel()
        loop = asyncio.get_running_loop()
        graceful = self._context.settings.graceful_timeout
        loop.call_later(graceful * REFUSING_AFTER, self._server.refuse_queued)
        loop.call_later(graceful + UNNOTICED_MARGIN, leave, EXIT_LOST)
        self._server.drain(empty_queue=empty_queue)
