"""Calls the predictor's health method regularly, between requests.

Theory of operation. A check is a job like a request: it waits for an executor thread and runs on
it, so with one thread predict and a check never run at once. There is one check at a time, and the
next is due an interval after the last has ended. The time of a check counts from its start, so
waiting behind a long predict is no failure. One failure may be bad luck; after three in a row the
worker is replaced. A check that takes too long counts at once: it blocks a thread, perhaps for
ever, so nothing is gained by waiting for two more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from obworker.errors import Unhealthy

if TYPE_CHECKING:
    from obworker.http.executors import Executors
    from obworker.http.reactor import Reactor, Timer

logger = logging.getLogger("obworker.worker")

MOST_FAILURES = 3


class HealthChecks:
    """Runs `check` on `executors` until it has failed for good; `on_unhealthy` gets the reason.

    `holds_thread` says whether that check still runs, so that its executor serves nothing. `check`
    raises Unhealthy and nothing else. Without a check, or with an interval of 0, nothing runs. All
    methods are for the event loop's thread.
    """

    def __init__(
        self,
        check: Callable[[], None] | None,
        executors: Executors,
        reactor: Reactor,
        *,
        interval: float,
        timeout: float,
        on_unhealthy: Callable[[str], None],
    ) -> None:
        self.holds_thread = False
        self._check = check
        self._executors = executors
        self._reactor = reactor
        self._interval = interval
        self._timeout = timeout
        self._on_unhealthy = on_unhealthy
        self._failures = 0
        self._timer: Timer | None = None
        self._is_over = check is None or not interval

    def start(self) -> None:
        """Check an interval from now, and so on."""
        if not self._is_over:
            self._timer = self._reactor.call_later(self._interval, self._submit)

    def stop(self) -> None:
        """Begin no more checks, and ignore the outcome of a current one."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def _submit(self) -> None:
        self._executors.submit(self._run, self._end)

    def _run(self) -> Unhealthy | None:
        """Run on an executor's thread; return what it raised."""
        assert self._check is not None
        self._executors.call(self._begin)
        try:
            self._check()
        except Unhealthy as failure:
            return failure
        return None

    def _begin(self) -> None:
        self._timer = self._reactor.call_later(self._timeout, self._time_out)

    def _end(self, failure: Unhealthy | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_over:
            self._judge(failure)
            self.start()

    def _judge(self, failure: Unhealthy | None) -> None:
        if failure is None:
            self._failures = 0
            return
        self._failures += 1
        logger.warning("health check failed (%d of %d): %s", self._failures, MOST_FAILURES, failure)
        if self._failures == MOST_FAILURES:
            self._give_up(f"health check: {failure}")

    def _time_out(self) -> None:
        if not self._is_over:
            self.holds_thread = True
            reason = f"it did not end within {self._timeout:g} s"
            logger.warning("health check failed: %s", reason)
            self._give_up(f"health check: {reason}")

    def _give_up(self, reason: str) -> None:
        self.stop()
        self._on_unhealthy(reason)
