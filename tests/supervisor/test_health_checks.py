from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from obworker.errors import Unhealthy
from obworker.http.executors import Executors
from obworker.supervisor.health_checks import HealthChecks

TIMEOUT = 10.0
# What a check that is to end takes at most, and one that is not to end is given.
LONG, SHORT = TIMEOUT, 0.05


@dataclass
class Worker:
    """An executor thread, and what was heard of the predictor's health."""

    executors: Executors
    reasons: list[str] = field(default_factory=list)

    def checks(
        self, check: Callable[[], None] | None, interval: float = 0.001, timeout: float = LONG
    ) -> HealthChecks:
        return HealthChecks(
            check,
            self.executors,
            interval=interval,
            timeout=timeout,
            on_unhealthy=self.reasons.append,
        )


@pytest.fixture
def worker() -> Iterator[Worker]:
    executors = Executors(1, on_free=lambda: None)
    executors.start()
    yield Worker(executors)
    executors.stop()


class Answers:
    """A check that gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: str | None) -> None:
        self.calls = 0
        self.threads: set[str] = set()
        self._answers = answers

    def __call__(self) -> None:
        self.threads.add(threading.current_thread().name)
        answer = self._answers[min(self.calls, len(self._answers) - 1)]
        self.calls += 1
        if answer is not None:
            raise Unhealthy(answer)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is true: eventually() would hold it up."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def run(checks: HealthChecks) -> None:
    """Check until the predictor is found to be unhealthy."""
    asyncio.run(asyncio.wait_for(checks.run(), TIMEOUT))


def test_three_failures_in_a_row_are_enough(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "obworker.worker")
    check = Answers("no", "still no", "out of memory")
    checks = worker.checks(check)
    run(checks)
    assert worker.reasons == ["health check: out of memory"]
    assert [record.getMessage() for record in caplog.records] == [
        "health check failed (1 of 3): no",
        "health check failed (2 of 3): still no",
        "health check failed (3 of 3): out of memory",
    ]
    assert check.threads == {"executor"}
    assert not checks.holds_thread
    assert not worker.executors.busy


def test_a_success_between_them_starts_the_count_again(worker: Worker) -> None:
    check = Answers("1", "2", None, "1", "2", "3")
    run(worker.checks(check))
    assert check.calls == 6
    assert worker.reasons == ["health check: 3"]


def test_one_that_does_not_end_needs_no_second(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    release, calls = threading.Event(), []

    def hang() -> None:
        calls.append(1)
        assert release.wait(TIMEOUT)

    async def check_and_come_back() -> None:
        checks = worker.checks(hang, timeout=SHORT)
        await checks.run()
        assert worker.reasons == ["health check: it did not end within 0.05 s"]
        assert checks.holds_thread
        assert worker.executors.busy  # a connection had better go to another worker
        release.set()
        await until(lambda: not worker.executors.busy)

    asyncio.run(check_and_come_back())
    assert calls == [1]
    assert "did not end" in caplog.text


def test_one_that_waits_behind_a_request_has_not_failed(worker: Worker) -> None:
    release, begun = threading.Event(), threading.Event()
    check = Answers(None)

    def predict() -> None:
        begun.set()
        assert release.wait(TIMEOUT)

    async def check_while_predict_runs() -> None:
        worker.executors.submit(predict)
        task = asyncio.create_task(worker.checks(check, timeout=SHORT).run())
        await until(lambda: worker.executors._unfinished == 2)
        await asyncio.wait([task], timeout=3 * SHORT)
        assert begun.is_set()
        assert not check.calls
        assert worker.executors._unfinished == 2  # no other check has joined the queue
        release.set()
        worker.executors.finished()
        await until(lambda: check.calls >= 2)
        await stop(task, worker)

    asyncio.run(check_while_predict_runs())
    assert worker.reasons == []


def test_one_that_is_under_way_when_they_stop_gives_its_thread_back(worker: Worker) -> None:
    release, begun = threading.Event(), threading.Event()

    def check() -> None:
        begun.set()
        assert release.wait(TIMEOUT)
        raise Unhealthy("too late to matter")

    async def stop_in_the_middle() -> None:
        task = asyncio.create_task(worker.checks(check).run())
        await until(begun.is_set)
        task.cancel()
        release.set()
        await until(lambda: not worker.executors.busy)

    asyncio.run(stop_in_the_middle())
    assert worker.reasons == []


@pytest.mark.parametrize(
    ("check", "interval"), [(None, 0.001), (Answers("no"), 0.0)], ids=["no method", "interval 0"]
)
def test_nothing_runs_where_nothing_is_to_be_asked(
    worker: Worker, check: Answers | None, interval: float
) -> None:
    run(worker.checks(check, interval))
    assert worker.reasons == []
    assert check is None or not check.calls


async def stop(task: asyncio.Task[None], worker: Worker) -> None:
    """End the checks, the one under way included."""
    task.cancel()
    await until(lambda: not worker.executors.busy)
