"""Serves in the process that was started, without a supervisor: ``python predictor.py``.

predict runs on the main thread, so that breakpoints, Ctrl-C and tracebacks work as usual; the event
loop has a thread of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from obworker import request_context
from obworker.errors import EXIT_INTERRUPTED, ObworkerError
from obworker.http.api_keys import ApiKeys
from obworker.http.cycle import Cycle
from obworker.http.reactor import READ
from obworker.http.server import Server
from obworker.settings import HEALTH, SUPERVISOR, Settings, without_effect
from obworker.supervisor import linux
from obworker.supervisor.blueprint import Blueprint, Predictions, batching_for, threads_for
from obworker.supervisor.certificates import Certificates
from obworker.supervisor.forks import one_process
from obworker.supervisor.listeners import Listeners, claim
from obworker.supervisor.signals import Signals

logger = logging.getLogger("obworker.worker")

# Health checks are a matter of the supervisor, too.
UNSUPERVISED = dict.fromkeys((SUPERVISOR, HEALTH), "nothing supervises this process")


def serve(
    blueprint: Blueprint,
    listeners: Listeners,
    settings: Settings,
    given: Collection[str],
    threads: int,
) -> int:
    """Serve until Ctrl-C; return the exit code.

    `given` are the keys of the settings that the user gave, `threads` is the number of native
    threads for the predictor.

    Raises:
        UsageError: the API keys or the certificate cannot be used.
    """
    api_keys, tls = ApiKeys.of(settings), Certificates.of(settings).context()
    _describe(blueprint, given)
    application = _boot(blueprint, threads)
    server = Server(
        application,
        listeners.sockets,
        settings,
        threads=threads_for(application, settings),
        batching=batching_for(application, settings),
        inline=False,
        must_queue=blueprint.reaches_predict,
        api_keys=api_keys,
        tls=tls,
        on_overdue=_report_overdue,
    )
    _start(server, listeners)
    for address in listeners.addresses:
        logger.info("%-10s %s  (Ctrl-C stops)", "serving", address.shown)
    logger.info("%-10s %s", "try", listeners.addresses[0].curl(blueprint.body_kind))
    _run(server)
    return EXIT_INTERRUPTED


def _describe(blueprint: Blueprint, given: Collection[str]) -> None:
    for label, text in blueprint.description:
        logger.info("%-10s %s", label, text)
    if idle := without_effect(given, {**blueprint.lacks, **UNSUPERVISED}):
        logger.warning("%-10s %s", "no effect", idle)


def _boot(blueprint: Blueprint, threads: int) -> Predictions:
    """Build the predictor; Ctrl-C meanwhile is not taken for a failure."""
    try:
        with one_process("__init__"):
            return blueprint.boot(threads, _report_fatal)
    except ObworkerError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        if error.traceback:
            logger.error("%s", error.traceback.rstrip())
        raise


def _start(server: Server, listeners: Listeners) -> None:
    """Listen, and start the event loop on a thread of its own.

    A signal interrupts a thread that waits, but not one that is about to wait: without a job to
    wake it, the main thread would then notice Ctrl-C at the next request.
    """
    signals = Signals()

    def wake(_events: int) -> None:
        signals.take()
        server.executors.wake()

    for listener in listeners.sockets:
        claim(listener, alone=False)
    server.start()
    server.reactor.watch(signals.fileno(), READ, wake)
    server.executors.start()


def _run(server: Server) -> None:
    """Call predict on this thread until Ctrl-C."""
    try:
        server.executors.run_here()
    except KeyboardInterrupt:
        logger.info("stopped")
    server.close()
    linux.flush_output()


def _report_fatal(error: ObworkerError) -> None:
    """Log the error; only the user can start this process again."""
    logger.error("%s; what needs it fails from now on, until this is started again", error)


def _report_overdue(cycle: Cycle) -> None:
    """Log it and go on, as a debugger may be at work."""
    with request_context.about_request(cycle.request_id):
        logger.error("%s is past its deadline", cycle.request.head.line)
