"""The event loop on which a predictor's coroutines run: one in a process, for all requests.

So what is bound to a loop can be kept between requests: a client's session, a lock. The application
is called by threads, as in all of WSGI; they wait for the loop, which has a thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from obworker.predictor.errands import Errand, is_async_iterable, is_awaitable

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

log = logging.getLogger("obworker.predictor")

OnLost = Callable[[Callable[[], None]], object]
"""A server's ``obworker.on_lost``: takes what it calls once nobody waits for the response."""


class PredictorLoop:
    """Starts with the first coroutine: a server may fork after it has made the application."""

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def settle(self, value: object, on_lost: OnLost | None = None) -> object:
        """Return `value`, or wait for what comes of it where that is to be awaited.

        An asynchronous iterator becomes an Errand. Raises what Errand.result does.
        """
        if not (is_awaitable(value) or is_async_iterable(value)):
            return value
        errand = Errand(self._started(), value)
        if on_lost is not None:
            on_lost(errand.give_up)
        return errand.result()

    def _started(self) -> AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = uvloop.new_event_loop()
                run = partial(_run_for_ever, loop)
                threading.Thread(target=run, name="predictor loop", daemon=True).start()
                self._loop = loop  # not before: at the limit on threads there is none to run it
            return self._loop


def _run_for_ever(loop: AbstractEventLoop) -> None:
    while True:
        _run_until_exit(loop)


def _run_until_exit(loop: AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    except SystemExit:  # asyncio lets it through where a task that predict started raises it
        log.exception("a task of the predictor called sys.exit()")
