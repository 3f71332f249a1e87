"""What processes hold: a made /proc, and the real one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import eventually

from obworker.supervisor.memory import (
    LEAST_AGE,
    OTHERS,
    Memories,
    Memory,
    Usage,
    measure,
)

ROLLUP = """\
5581f0000000-7ffe0000f000 ---p 00000000 00:00 0                          [rollup]
Rss:            {rss:8} kB
Pss:            {pss:8} kB
Pss_Dirty:             1 kB
Shared_Clean:         90 kB
Private_Clean:         1 kB
Private_Dirty:  {dirty:8} kB
Private_Hugetlb:       2 kB
Swap:                  7 kB
"""


class Proc:
    """A /proc with the processes that it is told of, which hold `held(size)`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, pid: int, *children: int, threads: int = 1, size: int = 1) -> None:
        task = self.path / str(pid) / "task"
        for thread in range(threads):
            (task / str(pid + thread)).mkdir(parents=True)
            mine = children[thread::threads]
            (task / str(pid + thread) / "children").write_text("".join(f"{one} " for one in mine))
        held = ROLLUP.format(rss=100 * size, pss=50 * size, dirty=10 * size - 3)
        (self.path / str(pid) / "smaps_rollup").write_text(held)

    def measure(self, *known: int) -> Usage:
        return measure(1, known, self.path)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def held(size: int) -> Memory:
    return Memory(100 * size << 10, 50 * size << 10, 10 * size << 10)


def test_each_process_is_read(proc: Proc) -> None:
    proc.add(1, 200, 300)
    proc.add(200, size=2)
    proc.add(300, size=3)
    assert proc.measure(200, 300) == {1: held(1), 200: held(2), 300: held(3)}


def test_what_a_worker_has_started_is_the_workers(proc: Proc) -> None:
    proc.add(1, 200)
    proc.add(200, 210, 220, threads=2)
    proc.add(210, 230)
    proc.add(220)
    proc.add(230)
    assert proc.measure(200) == {1: held(1), 200: held(4)}


def test_what_nobody_knows_is_not_the_masters(proc: Proc) -> None:
    proc.add(1, 200, 300)
    proc.add(200)
    proc.add(300, 310)
    proc.add(310)
    assert proc.measure(200) == {1: held(1), 200: held(1), OTHERS: held(2)}


def test_a_number_that_is_a_strangers_by_now_is_not_read(proc: Proc) -> None:
    proc.add(1, 200)
    proc.add(200)
    proc.add(300)
    assert proc.measure(200, 300) == {1: held(1), 200: held(1)}


@pytest.mark.parametrize("left", [None, ""])
def test_one_that_has_ended_is_absent(proc: Proc, left: str | None) -> None:
    proc.add(1, 200, 300)
    proc.add(200)
    if left is not None:  # nobody has reaped it
        (proc.path / "300").mkdir()
        (proc.path / "300" / "smaps_rollup").write_text(left)
    assert proc.measure(200, 300) == {1: held(1), 200: held(1)}


def test_without_a_master_there_is_nothing(proc: Proc) -> None:
    assert proc.measure(200) == {}


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    code = "block = b'x' * (32 << 20); print(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_real_process_holds_what_it_has_written(child: subprocess.Popen[bytes]) -> None:
    memory = measure(os.getpid(), [child.pid])[child.pid]
    assert 32 << 20 < memory.uss <= memory.pss <= memory.rss < 128 << 20


def test_a_real_process_that_ends_is_absent(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    eventually(lambda: child.pid not in measure(os.getpid(), [child.pid]))


class Kernel:
    """Takes `cost` seconds for each measurement."""

    def __init__(self, cost: float) -> None:
        self.now = 100.0
        self.asked = 0
        self._cost = cost

    def measure(self) -> Usage:
        self.asked += 1
        self.now += self._cost
        return {1: held(self.asked)}

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(("cost", "pause"), [(0.0, LEAST_AGE), (0.01, LEAST_AGE), (1.0, 20.0)])
def test_the_kernel_is_not_asked_too_often(cost: float, pause: float) -> None:
    kernel = Kernel(cost)
    memories = Memories(kernel.measure, kernel.clock)
    first = memories.recent()
    assert first.seconds == pytest.approx(cost)
    kernel.now += pause - 0.1
    assert memories.recent() is first
    kernel.now += 0.1
    assert memories.recent().usage == {1: held(2)}
