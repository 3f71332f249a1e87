from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from harness import eventually

from obworker.errors import Unhealthy
from obworker.http.executors import Executors
from obworker.http.reactor import Reactor
from obworker.supervisor.health_checks import HealthChecks

TIMEOUT = 10.0
# What a check that is to end takes at most, and one that is not to end is given.
LONG, SHORT = TIMEOUT, 0.05


@dataclass
class Worker:
    """An executor thread and the loop beside it, and what was heard of the predictor's health."""

    reactor: Reactor
    executors: Executors
    reasons: list[str] = field(default_factory=list)

    def check(
        self, check: Callable[[], None] | None, interval: float = 0.001, timeout: float = LONG
    ) -> HealthChecks:
        """Start to check."""
        checks = HealthChecks(
            check,
            self.executors,
            self.reactor,
            interval=interval,
            timeout=timeout,
            on_unhealthy=self.reasons.append,
        )
        self.call(checks.start)
        return checks

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the loop's thread and wait for it."""
        done = threading.Event()
        self.reactor.post(function)
        self.reactor.post(done.set)
        assert done.wait(TIMEOUT)


@pytest.fixture(params=[True, False], ids=["inline", "beside"])
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    reactor = Reactor()
    executors = Executors(
        reactor, 1, on_free=lambda: None, on_relieved=lambda: None, inline=request.param
    )
    executors.start()
    thread = threading.Thread(target=executors.run_here, name="executor")
    thread.start()
    yield Worker(reactor, executors)
    reactor.post(executors.stop)
    thread.join(TIMEOUT)
    assert not thread.is_alive()


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


def test_three_failures_in_a_row_are_enough(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "obworker.worker")
    check = Answers("no", "still no", "out of memory")
    checks = worker.check(check)
    eventually(lambda: worker.reasons)
    assert worker.reasons == ["health check: out of memory"]
    assert [record.getMessage() for record in caplog.records] == [
        "health check failed (1 of 3): no",
        "health check failed (2 of 3): still no",
        "health check failed (3 of 3): out of memory",
    ]
    assert check.threads == {"executor"}
    assert not checks.holds_thread
    eventually(lambda: not worker.executors.busy)
    assert check.calls == 3


def test_a_success_between_them_starts_the_count_again(worker: Worker) -> None:
    check = Answers("1", "2", None, "1", "2", "3")
    worker.check(check)
    eventually(lambda: worker.reasons)
    assert check.calls == 6
    assert worker.reasons == ["health check: 3"]


def test_one_that_does_not_end_needs_no_second(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    release, calls = threading.Event(), []

    def hang() -> None:
        calls.append(1)
        assert release.wait(TIMEOUT)

    checks = worker.check(hang, timeout=SHORT)
    eventually(lambda: worker.reasons)
    assert worker.reasons == ["health check: it did not end within 0.05 s"]
    assert checks.holds_thread
    assert worker.executors.busy  # a connection had better go to another worker
    release.set()
    eventually(lambda: not worker.executors.busy)
    assert calls == [1]
    assert "did not end" in caplog.text


def test_one_that_waits_behind_a_request_has_not_failed(worker: Worker) -> None:
    release, begun, waited = threading.Event(), threading.Event(), threading.Event()
    check = Answers(None)

    def predict() -> None:
        begun.set()
        assert release.wait(TIMEOUT)

    worker.reactor.post(worker.executors.submit, predict, lambda _: None)
    assert begun.wait(TIMEOUT)
    checks = worker.check(check, timeout=SHORT)
    eventually(lambda: worker.executors._unfinished == 2)
    worker.reactor.post(worker.reactor.call_later, 3 * SHORT, waited.set)
    assert waited.wait(TIMEOUT)
    assert not check.calls
    assert worker.executors._unfinished == 2  # no other check has joined the queue
    release.set()
    eventually(lambda: check.calls >= 2)
    worker.call(checks.stop)
    assert worker.reasons == []


def test_one_that_is_under_way_when_they_stop_gives_its_thread_back(worker: Worker) -> None:
    release, begun = threading.Event(), threading.Event()

    def check() -> None:
        begun.set()
        assert release.wait(TIMEOUT)
        raise Unhealthy("too late to matter")

    checks = worker.check(check)
    assert begun.wait(TIMEOUT)
    worker.call(checks.stop)
    release.set()
    eventually(lambda: not worker.executors.busy)
    assert worker.reasons == []


@pytest.mark.parametrize(
    ("check", "interval"), [(None, 0.001), (Answers("no"), 0.0)], ids=["no method", "interval 0"]
)
def test_nothing_runs_where_nothing_is_to_be_asked(
    worker: Worker, check: Answers | None, interval: float
) -> None:
    passed = threading.Event()
    worker.check(check, interval)
    worker.reactor.post(worker.reactor.call_later, SHORT, passed.set)
    assert passed.wait(TIMEOUT)
    assert worker.reasons == []
    assert check is None or not check.calls


def test_the_time_of_one_that_has_ended_does_not_run_out(worker: Worker) -> None:
    """It began to run when the check was over, and ended a worker that was well."""
    check = Answers(None)
    checks = worker.check(check, interval=4 * SHORT, timeout=SHORT)
    eventually(lambda: check.calls >= 3)
    worker.call(checks.stop)
    assert worker.reasons == []
