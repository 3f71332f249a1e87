"""Asks the kernel about processes, and ends them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from obworker.supervisor.memory import memory_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIB = 1 << 20
SAMPLE_SECONDS = 0.25


def tree(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            for child in children.read_text().split():
                yield from tree(int(child))


def cpu_seconds(processes: Iterable[int]) -> float:
    """Return the user and system time the processes have used so far, in all their threads.

    Raises OSError when one of them has ended.
    """
    # The kernel's CPU clock of a process (MAKE_PROCESS_CPUCLOCK with CPUCLOCK_SCHED) counts in
    # nanoseconds. /proc/PID/stat counts in hundredths of a second, an error of several percent in a
    # short round.
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in processes)


def is_worker(pid: int) -> bool:
    """Tell whether a process is a worker of obworker, by its title."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"obworker: worker")
    except OSError:  # it has just ended
        return False


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory, exactly; 0 once it has ended."""
    # statm is cheaper, but its values are inexact (proc(5)): each CPU adds its share to them late.
    found = memory_of(pid)
    return 0 if found is None else found.rss


def proportional_bytes(pid: int) -> int:
    """Return a process's memory, a shared page divided among its users; 0 if it has ended."""
    found = memory_of(pid)
    return 0 if found is None else found.pss


def open_files(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


class Memory:
    """Samples of the resident memory of processes."""

    def __init__(self, processes: Iterable[int]) -> None:
        self._processes = tuple(processes)
        self._samples: list[tuple[float, dict[int, int]]] = []

    def growth(self, since: float = 0.0) -> int:
        """Return the greatest growth of any process since its first sample after `since`.

        `since` is a monotonic instant.
        """
        samples = [sample for instant, sample in self._samples if instant >= since]
        return max(max(s[pid] for s in samples) - samples[0][pid] for pid in self._processes)

    def most(self) -> int:
        """Return the greatest memory of any process."""
        return max(max(sample.values()) for _, sample in self._samples)

    def sample(self, over: threading.Event) -> None:
        """Sample until `over` is set."""
        while not over.wait(SAMPLE_SECONDS if self._samples else 0):
            sample = {pid: resident_bytes(pid) for pid in self._processes}
            self._samples.append((time.monotonic(), sample))


@contextmanager
def watched(processes: Iterable[int]) -> Iterator[Memory]:
    """Sample the memory of processes, in a thread, while the block runs."""
    memory, over = Memory(processes), threading.Event()
    thread = threading.Thread(target=memory.sample, args=(over,), daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def unwind_when_killed() -> None:
    """Make SIGTERM end this process as Ctrl-C does, so that it ends its servers."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


class Held:
    """Processes with open pidfds, so that none is mistaken for another that got its pid."""

    def __init__(self, processes: Iterable[int]) -> None:
        self._pidfds: list[int] = []
        for pid in processes:
            with suppress(ProcessLookupError):
                self._pidfds.append(os.pidfd_open(pid))

    def kill(self) -> None:
        """Kill those that still run, and close all pidfds."""
        for pidfd in self._pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
