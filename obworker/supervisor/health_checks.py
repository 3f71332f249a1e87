"""Asks the predictor for its health now and then, between requests.

Theory of operation. A check is a job like a request: it waits for an executor thread and runs on
it, so with one thread predict and the check never meet. Only one is under way at a time, and the
next is due an interval after the last has ended. To wait behind a long predict is no failure: the
time of a check counts from its start. One that fails may be bad luck, three in a row are not. One
that takes too long is different: it keeps its thread from the requests behind it, and may keep it
for ever, so nothing is gained by waiting for two more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from obworker.errors import Unhealthy

if TYPE_CHECKING:
    from obworker.http.queue import Executors

logger = logging.getLogger("obworker.worker")

MOST_FAILURES = 3


class HealthChecks:
    """Runs `check` on `executors` until it has failed for good; `on_unhealthy` is told why, once.

    By then `holds_thread` says whether a check goes on: its executor thread serves nobody.
    `check` raises Unhealthy and nothing else. Without one, or with an interval of 0, nothing runs.
    """

    def __init__(
        self,
        check: Callable[[], None] | None,
        executors: Executors,
        *,
        interval: float,
        timeout: float,
        on_unhealthy: Callable[[str], None],
    ) -> None:
        self._check = check
        self._executors = executors
        self._interval = interval
        self._timeout = timeout
        self._on_unhealthy = on_unhealthy
        self._failures = 0
        self.holds_thread = False

    async def run(self) -> None:
        """Check until the predictor is unhealthy, in the event loop; cancel it to stop."""
        if self._check is None or not self._interval:
            return
        reason = None
        while reason is None:
            await asyncio.sleep(self._interval)
            reason = await self._judge(_Check(self._check, self._executors))
        self._on_unhealthy(reason)

    async def _judge(self, check: _Check) -> str | None:
        """Return why the predictor is unhealthy, if it is."""
        try:
            failure = await check.outcome(self._timeout)
        except TimeoutError:
            self.holds_thread = True
            reason = f"it did not end within {self._timeout:g} s"
            logger.warning("health check failed: %s", reason)
            return f"health check: {reason}"
        if failure is None:
            self._failures = 0
            return None
        self._failures += 1
        logger.warning("health check failed (%d of %d): %s", self._failures, MOST_FAILURES, failure)
        return f"health check: {failure}" if self._failures == MOST_FAILURES else None


class _Check:
    """One check on its way through the queue; its thread counts as free only when it is."""

    def __init__(self, check: Callable[[], None], executors: Executors) -> None:
        self._check = check
        self._executors = executors
        self._loop = asyncio.get_running_loop()
        self._begun = asyncio.Event()
        self._ended: asyncio.Future[Unhealthy | None] = self._loop.create_future()

    async def outcome(self, timeout: float) -> Unhealthy | None:
        """Queue the check and return what it raised, at most `timeout` seconds after it began.

        Raises:
            TimeoutError: it has not ended.
        """
        self._executors.submit(self._run)
        await self._begun.wait()
        ended, _ = await asyncio.wait([self._ended], timeout=timeout)
        if not ended:
            raise TimeoutError
        return self._ended.result()

    def _run(self) -> None:
        """Run on an executor's thread."""
        failure = None
        self._loop.call_soon_threadsafe(self._begun.set)
        try:
            self._check()
        except Unhealthy as error:
            failure = error
        self._loop.call_soon_threadsafe(self._end, failure)

    def _end(self, failure: Unhealthy | None) -> None:
        self._executors.finished()
        self._ended.set_result(failure)
