"""What becomes of molds that do not end when they should: real processes, a clock of our own."""

from __future__ import annotations

import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from obworker.settings import Settings
from obworker.supervisor import linux
from obworker.supervisor.molds import DUMP_TIMEOUT, KILL_TIMEOUT, Molds

PLAN: Any = SimpleNamespace(
    environ={},
    budget=SimpleNamespace(mold_environ={}),
    settings=Settings(load_timeout=50),
    factory="",
    arguments={},
    label="",
    api_keys=[],
    certificates=None,
)


class Descriptors:
    """Makes a process that loads for ever."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes]

    def execute(self, *_: object) -> int:
        self.process = subprocess.Popen(["sleep", "60"], start_new_session=True)
        return self.process.pid


class Case:
    """The mold of generation 1, which has begun to load."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._selector = selectors.DefaultSelector()
        made: Any = Descriptors()
        self.molds = Molds(made, self._selector, on_loaded=self.never, on_failed=self.never)
        self.molds.start(1, PLAN, self.now)
        self.process: subprocess.Popen[bytes] = made.process

    def never(self, *_: object) -> None:
        raise AssertionError

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._selector.close()


def is_gone(molds: Molds) -> bool:
    return molds.is_gone


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    yield case
    case.close()


def test_one_that_loads_for_too_long_shows_where_and_is_killed(case: Case) -> None:
    due = case.now + PLAN.settings.load_timeout
    assert case.molds.next_deadline == due
    case.molds.tend(due - 1)
    assert case.process.poll() is None
    case.molds.tend(due)
    assert case.molds.next_deadline == due + DUMP_TIMEOUT
    assert case.process.wait(5) == -linux.DUMP_SIGNAL
    mold = case.molds.exited(case.process.pid)
    assert mold is not None
    assert mold.reason == "took longer than 50 s, see --load-timeout, and "
    assert is_gone(case.molds)


def test_one_that_nothing_ends_is_not_waited_for(case: Case) -> None:
    assert case.molds.pids == [case.process.pid, 0]
    case.molds.dismiss()
    assert case.molds.pids == [0, 0]
    assert case.process.wait(5) == -signal.SIGKILL  # and nobody says so: as if it slept on
    assert case.molds.tend(case.now + KILL_TIMEOUT - 1) == []
    assert not is_gone(case.molds)
    [mold] = case.molds.tend(time.monotonic() + KILL_TIMEOUT)
    assert mold.dismissed
    assert is_gone(case.molds)
    assert case.molds.next_deadline is None
    assert case.molds.exited(case.process.pid) is None
