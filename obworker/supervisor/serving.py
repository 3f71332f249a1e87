"""Serves one slot in a worker: from building the predictor to the last answer.

Theory of operation. When the predictor is built the worker listens, sends Ready, and accepts when
the master sends Serve. From then on it drains for one of two reasons:

    the master sends Drain, or is gone
    it has to leave: a predict or a health check did not come back, the predictor is not well,
        run() failed, the GPU is lost, or SIGTERM came; then it tells the master, which makes
        another worker

It ends when it has drained, soon after the graceful timeout at the latest, or at SIGQUIT. A worker
that has served enough asks to be recycled, and serves until told to drain. One whose GPU is lost
cannot give a right answer, so all its requests are answered with 503 at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import psutil

from obworker import log_files, request_context
from obworker.errors import BootError, DeviceError, ObworkerError, ServiceUnavailable
from obworker.http.api_keys import ApiKeys
from obworker.http.cycle import Cycle
from obworker.http.exchange import Exchange
from obworker.http.reactor import READ
from obworker.http.server import Server
from obworker.printing import STANDARD_ERROR
from obworker.settings import Settings
from obworker.supervisor import linux, listeners, probes
from obworker.supervisor.blueprint import Blueprint, Predictions, batching_for, threads_for
from obworker.supervisor.forks import one_process
from obworker.supervisor.health_checks import HealthChecks
from obworker.supervisor.messages import Channel, Drain, Leaving, Ready, Recycle, Serve, Spawn
from obworker.supervisor.recycling import Recycling
from obworker.supervisor.rows import RowMonitor
from obworker.supervisor.scoreboard import Scoreboard
from obworker.supervisor.signals import Signals

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger("obworker.worker")

EXIT_DRAINED = 0
EXIT_LOST = 1
"""The predictor failed, a predict never came back, draining took too long, or the master went."""

WIND_UP_TIMEOUT = 2.0
# The share of the graceful timeout after which a worker refuses requests that are still queued.
REFUSING_AFTER = 0.9
# The master kills a worker that drains for too long. If the master does not know that it drains,
# the worker ends by itself. It waits a little longer, so that the master, if it knows, says why.
UNNOTICED_MARGIN = 1.0
LOOK_INTERVAL = 0.25
# The GPU memory of a process is free for the next worker only when the process has ended.
DEVICE_LOST_TIMEOUT = 5.0
DEVICE_LOST = "this worker's GPU has failed; try again"


@dataclass(frozen=True)
class Context:
    """What a worker gets from its mold."""

    listeners: tuple[socket.socket, ...]
    board: Scoreboard
    exchange: Exchange
    blueprint: Blueprint
    settings: Settings
    api_keys: ApiKeys | None
    tls: ssl.SSLContext | None
    master: int


class Serving:
    """Serves one slot until it is drained."""

    def __init__(self, order: Spawn, channel: Channel, context: Context) -> None:
        self._slot = order.slot
        self._threads = order.pools["openmp"]
        self._channel = channel
        self._context = context
        self._code = EXIT_DRAINED
        self._stuck = 0
        # Set when the predictor cannot go on: by any thread, maybe before there is a loop.
        self._fatal: Future[ObworkerError] = Future()
        self._counting = threading.Lock()
        self._row = context.board.seat(order.slot, order.seat)
        self._asks_to_leave = False

    def boot(self) -> Predictions:
        """Build the predictor.

        Raises:
            BootError: it cannot be built.
            RunError: its run() has failed already.
            DeviceError: its GPU has failed.
        """
        context = self._context
        with one_process("__init__"):
            application = context.blueprint.boot(self._threads, self._alarm, self._count_no_memory)
        if self._fatal.done():
            raise self._fatal.result()
        linux.trim_heap()  # loading a model leaves freed memory behind
        return application

    def serve(self, application: Predictions) -> NoReturn:
        """Serve until drained, and end the process."""
        self._server = server = self._make_server(application)
        self._health = self._make_health_checks(application)
        self._recycling = self._draw_recycling()
        self._process, self._serving_since = psutil.Process(), time.monotonic()
        self._requests_before = self._row.requests
        self._listen()
        self._signals = Signals((signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1))
        server.reactor.watch(self._signals.fileno(), READ, self._read_signals)
        server.reactor.watch(self._channel.fileno(), READ, self._read_order)
        server.executors.call(self._begin)
        server.executors.run_here()
        linux.leave(EXIT_LOST)

    def _make_server(self, application: Predictions) -> Server:
        context, settings = self._context, self._context.settings
        return Server(
            probes.in_front(application, context.board),
            context.listeners,
            settings,
            threads=threads_for(application, settings),
            batching=batching_for(application, settings),
            must_queue=context.blueprint.reaches_predict,
            is_open=probes.answers,
            api_keys=context.api_keys,
            slot=self._slot,
            exchange=context.exchange,
            tls=context.tls,
            on_overdue=self._overdue,
            on_drained=self._wind_up,
            monitor=RowMonitor(self._row),
        )

    def _make_health_checks(self, application: Predictions) -> HealthChecks:
        settings = self._context.settings
        return HealthChecks(
            application.check_health,
            self._server.executors,
            self._server.reactor,
            interval=settings.health_interval,
            timeout=settings.health_timeout,
            on_unhealthy=self._unhealthy,
        )

    def _draw_recycling(self) -> Recycling:
        settings = self._context.settings
        return Recycling.draw(
            settings.max_requests,
            settings.max_requests_jitter,
            settings.max_worker_memory,
            chance=random.random,
        )

    def _listen(self) -> None:
        """Listen, so that the port is open before the worker is ready; it accepts when told to."""
        try:
            for listener in self._context.listeners:
                listeners.claim(listener, alone=False)
                listener.listen(self._context.settings.backlog)
        except OSError as error:
            raise BootError(f"cannot listen: {error.strerror}") from error

    def _begin(self) -> None:
        """Start the threads and send Ready; called with the wheel, so the loop begins later."""
        executors = self._server.executors
        try:
            executors.start()
        except RuntimeError as error:
            raise BootError(linux.NO_THREAD) from error
        self._channel.send(Ready())
        self._fatal.add_done_callback(lambda fatal: executors.call(self._break_off, fatal.result()))
        self._health.start()
        self._look_out()

    def _reopen_logs(self) -> None:
        log_files.reopen_files(self._context.settings)
        self._server.reopen_access_log()

    def _look_out(self) -> None:
        """Check regularly whether other workers serve, and whether to ask to be replaced."""
        self._server.reactor.call_later(LOOK_INTERVAL, self._look_out)
        self._server.queue.has_peers = self._context.board.serves_beside(self._row)
        if not self._asks_to_leave:
            with contextlib.suppress(OSError):  # its memory cannot be read without a descriptor
                self._ask_to_leave()

    def _ask_to_leave(self) -> None:
        """Ask to be replaced if there is a reason to, and serve until then."""
        reason = self._recycling.why(
            requests=self._row.requests - self._requests_before,
            memory=self._process.memory_info().rss,
            served_for=time.monotonic() - self._serving_since,
        )
        if reason:
            self._asks_to_leave = True
            self._channel.send(Recycle(reason))

    # reasons to end

    def _read_signals(self, _events: int) -> None:
        reactions: dict[int, Callable[[], object]] = {
            signal.SIGTERM: partial(self._leave, "was told to stop by SIGTERM"),
            signal.SIGQUIT: partial(self._end, EXIT_DRAINED),
            signal.SIGUSR1: self._reopen_logs,
        }
        for number in self._signals.take():
            if number in reactions:
                reactions[number]()

    def _read_order(self, _events: int) -> None:
        """Obey the master: Serve, or Drain, which may come again as final; drain if it is gone."""
        message, _ = self._channel.receive()
        if isinstance(message, Serve):
            self._server.start()
            return
        if message is None:
            self._server.reactor.forget(self._channel.fileno())
        self._channel.send(Leaving("was told to drain"))
        self._drain(message if isinstance(message, Drain) else Drain(empty_queue=True, final=True))

    def _alarm(self, error: ObworkerError) -> None:
        """Note, on any thread, that the predictor cannot go on; only the first error counts."""
        with contextlib.suppress(InvalidStateError):
            self._fatal.set_result(error)

    def _break_off(self, error: ObworkerError) -> None:
        """Leave because the predictor failed; if the GPU is lost, first fail all requests."""
        self._code = error.exit_code
        if isinstance(error, DeviceError):
            self._server.fail_all(ServiceUnavailable(DEVICE_LOST, why="its GPU has failed"))
            self._leave(str(error), device_lost=True)
        else:
            self._leave(str(error))

    def _count_no_memory(self) -> None:
        with self._counting:
            self._row.no_memory += 1

    def _unhealthy(self, reason: str) -> None:
        if self._health.holds_thread:
            self._lose_thread()
        self._code = EXIT_LOST
        self._leave(reason)

    def _overdue(self, cycle: Cycle) -> None:
        """Log which predict has not come back, and make room for a worker that works."""
        age = time.monotonic() - cycle.received
        with request_context.about_request(cycle.request_id):
            line = cycle.request.head.line
            logger.error("worker %d: %s took over %.1f s, see --timeout", self._slot, line, age)
        self._lose_thread()
        self._code = EXIT_LOST
        self._leave("a predict is past its deadline")

    def _lose_thread(self) -> None:
        """Dump the stacks of all threads, and count one thread as lost.

        If none is left, queued requests are refused: no thread would answer them.
        """
        faulthandler.dump_traceback(STANDARD_ERROR, all_threads=True)
        self._stuck += 1
        if self._stuck >= self._server.executors.threads:
            self._server.refuse_queued()

    # how it ends

    def _leave(self, reason: str, *, device_lost: bool = False) -> None:
        """Tell the master, which makes another worker, and answer what has come."""
        self._channel.send(Leaving(reason, device_lost))
        if device_lost:
            self._server.reactor.call_later(DEVICE_LOST_TIMEOUT, self._end, self._code)
        self._drain(Drain(empty_queue=False, final=False))

    def _drain(self, order: Drain) -> None:
        """Answer what has come, for a limited time: the master may not know of it.

        What is still queued near the end gets a 503: it has just run out of time.
        """
        self._health.stop()
        reactor = self._server.reactor
        graceful = self._context.settings.graceful_timeout
        reactor.call_later(graceful * REFUSING_AFTER, self._server.refuse_queued)
        reactor.call_later(graceful + UNNOTICED_MARGIN, self._end, EXIT_LOST)
        self._server.drain(empty_queue=order.empty_queue, final=order.final)

    def _wind_up(self) -> None:
        self._context.blueprint.wind_up(WIND_UP_TIMEOUT)
        self._end(self._code)

    def _end(self, code: int) -> NoReturn:
        """End the process, even if a thread is in a predict that never comes back."""
        self._server.close()
        linux.leave(code)
