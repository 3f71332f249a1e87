"""The event loop that runs a predictor's coroutines: one in each process, for all requests.

So objects that are bound to a loop, such as a client session or a lock, can be kept between
requests. The application is called by threads, as always in WSGI; they wait for the loop, which has
a thread of its own.

A process that is forked by a coroutine has only this thread, and shares the epoll instance of the
loop with us: it would take our events. So it is ended when it would continue with the loop.
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
"""The server's ``obworker.on_lost``: takes a function, to be called when the client has gone."""


class PredictorLoop:
    """Starts its loop for the first coroutine: a server may fork after making the application."""

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def settle(self, value: object, on_lost: OnLost | None = None) -> object:
        """Return `value`; if it can be awaited, wait for its outcome and return that.

        An asynchronous iterator becomes an Errand. Raises what Errand.result raises.
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
                # The loop keeps the context in which it is made: that must not be a request's.
                loop = Context().run(uvloop.new_event_loop)
                run = partial(_run_for_ever, loop)
                threading.Thread(target=run, name="predictor loop", daemon=True).start()
                self._loop = loop  # only now: at the limit on threads, start() raises
            return self._loop


EXIT_CAME_BACK = 1

_here = threading.local()
"""Its attribute `loop` is the loop that the thread runs."""


def _leave_soon() -> None:
    """End a process that was forked on the loop's thread, when the loop would go on in it."""
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
    except SystemExit:  # raised by a task that predict has started: asyncio lets it through
        log.exception("a task of the predictor called sys.exit()")
