"""Serves in the process that was started, without a supervisor: ``python predictor.py``.

predict runs on the main thread, where breakpoints, Ctrl-C and tracebacks work as a person expects;
the event loop has a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import uvloop

from obworker import log
from obworker.http.api_keys import ApiKeys
from obworker.http.cycle import Cycle
from obworker.http.queue import Executors
from obworker.http.server import Server
from obworker.settings import Settings
from obworker.supervisor import linux, listeners, refusal, signals
from obworker.supervisor.blueprint import Blueprint, Predictions, threads_for
from obworker.supervisor.listeners import Address

logger = logging.getLogger("obworker.worker")

EXIT_INTERRUPTED = 130


def serve(
    blueprint: Blueprint, listener: socket.socket, address: Address, settings: Settings
) -> int:
    """Serve until Ctrl-C; return the exit code.

    Raises:
        UsageError: the API keys cannot be had.
    """
    api_keys = ApiKeys.of(settings)
    for label, text in blueprint.description:
        logger.info("%-10s %s", label, text)
    threads = len(os.sched_getaffinity(0))
    application = blueprint.boot(threads, lambda: linux.leave(1))
    server = _start(blueprint, application, listener, settings, api_keys)
    logger.info("%-10s %s  (Ctrl-C stops)", "serving", address.url)
    logger.info("%-10s %s", "try", address.curl(blueprint.body_kind))
    try:
        server.executors.run_here()
    except KeyboardInterrupt:
        refusal.refuse_new_connections(listener)
        logger.info("stopped")
    server.close_access_log()
    sys.stdout.flush()
    return EXIT_INTERRUPTED


def _start(
    blueprint: Blueprint,
    application: Predictions,
    listener: socket.socket,
    settings: Settings,
    api_keys: ApiKeys | None,
) -> Server:
    """Start the event loop on a thread of its own; return the server once it listens."""
    loop = uvloop.new_event_loop()
    woken = signals.open_wakeup()
    threading.Thread(target=loop.run_forever, name="event loop", daemon=True).start()

    async def start() -> Server:
        server = Server(
            application,
            listener,
            settings,
            threads=threads_for(application, settings),
            must_queue=blueprint.reaches_predict,
            api_keys=api_keys,
            on_overdue=_report_overdue,
        )
        for _ in range(server.executors.threads - 1):
            server.executors.add_thread()
        listeners.claim(listener, alone=False)
        server.start()
        loop.add_reader(woken, _wake, woken, server.executors)
        return server

    return _call(loop, start())


def _wake(woken: socket.socket, executors: Executors) -> None:
    """Let the main thread run its signal handler.

    The system interrupts a thread that waits, but not one that is about to: that one would notice
    Ctrl-C with the next request.
    """
    woken.recv(4096)
    executors.wake()


def _call(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Server]) -> Server:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def _report_overdue(cycle: Cycle) -> None:
    """Say so; with a debugger at work it is no reason to stop."""
    with log.about_request(cycle.request_id):
        logger.error("%s is past its deadline", cycle.request.line)
