"""Serves one slot: from a predictor that is built until the last answer is sent.

Theory of operation. When the predictor is built the worker listens, says Ready, and accepts when
the master says Serve. From then on it ends in one of three ways, which all drain it:

    the master says Drain, or is gone
    it has to leave: a predict or a health check did not come back, the predictor is not well,
        run() failed, somebody sent SIGTERM; then it tells the master, so another can come
    the graceful timeout is over

A worker that has served enough asks to be recycled, and serves on until it is told to drain.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import random
import signal
import socket
import time
from concurrent.futures import Future
from dataclasses import dataclass

import psutil

from obworker import log
from obworker.errors import BootError
from obworker.http.api_keys import ApiKeys
from obworker.http.cycle import Cycle
from obworker.http.server import Server
from obworker.settings import Settings
from obworker.supervisor import linux, listeners, probes
from obworker.supervisor.blueprint import Blueprint, Predictions, threads_for
from obworker.supervisor.health_checks import HealthChecks
from obworker.supervisor.messages import Channel, Drain, Leaving, Ready, Recycle, Serve, Spawn
from obworker.supervisor.recycling import Recycling
from obworker.supervisor.rows import RowMonitor
from obworker.supervisor.scoreboard import Scoreboard

logger = logging.getLogger("obworker.worker")

EXIT_DRAINED = 0
EXIT_LOST = 1
"""The predictor's background thread failed, a predict never came back, or the master went."""

WIND_UP_TIMEOUT = 2.0
# The share of the graceful timeout after which a worker begins nothing new.
REFUSING_AFTER = 0.9
# The master kills a worker that is late. One that drains without the master's knowledge ends by
# itself so much later, so that of the two it is always the master who says why.
UNNOTICED_MARGIN = 1.0
RECYCLING_INTERVAL = 0.25


@dataclass(frozen=True)
class Context:
    """What a worker has from its mold."""

    listener: socket.socket
    board: Scoreboard
    blueprint: Blueprint
    settings: Settings
    api_keys: ApiKeys | None
    master: int


class Serving:
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
        return probes.Probes(application, context.board)

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
            is_open=probes.answers,
            api_keys=context.api_keys,
            slot=self._slot,
            on_overdue=self._overdue,
            monitor=RowMonitor(self._row),
        )
        self._server.executors.start()
        self._listen()
        loop.add_signal_handler(signal.SIGTERM, self._leave, "was told to stop by SIGTERM")
        loop.add_signal_handler(signal.SIGQUIT, self._end, EXIT_DRAINED)
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
        self._server.close_access_log()
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
        with log.about_request(cycle.request_id):
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
        loop.call_later(graceful + UNNOTICED_MARGIN, self._end, EXIT_LOST)
        self._server.drain(empty_queue=empty_queue)

    def _end(self, code: int) -> None:
        self._server.close_access_log()
        linux.leave(code)
