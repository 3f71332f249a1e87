"""The event loop on which a predictor's coroutines run: one in a process, for all requests.

So what is bound to a loop can be kept between requests: a client's session, a lock. The application
is called by threads, as in all of WSGI; they wait for the loop, which has a thread of its own.

A process that a coroutine forks has this thread and no other, and the kernel's side of the loop in
common with us: it would take what wakes us up. So it ends where it would go on with the loop.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, NoReturn

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
                # For its life it keeps the context that it is made in: not a request's.
                loop = Context().run(uvloop.new_event_loop)
                run = partial(_run_for_ever, loop)
                threading.Thread(target=run, name="predictor loop", daemon=True).start()
                self._loop = loop  # not before: at the limit on threads there is none to run it
            return self._loop


EXIT_CAME_BACK = 1

_here = threading.local()
"""Has the `loop` that the thread runs."""


def _leave_soon() -> None:
    """Have a process that was forked on a loop's thread end at its next turn."""
    loop = getattr(_here, "loop", None)
    if loop is not None:
        loop.call_soon(_leave)


def _leave() -> NoReturn:
    log.error("a process that predict forked came back from it: it must use os._exit()")
    os._exit(EXIT_CAME_BACK)


os.register_at_fork(after_in_child=_leave_soon)


def _run_for_ever(loop: AbstractEventLoop) -> None:
    _here.loop = loop
    while True:
        _run_until_exit(loop)


def _run_until_exit(loop: AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    except SystemExit:  # asyncio lets it through where a task that predict started raises it
        log.exception("a task of the predictor called sys.exit()")
