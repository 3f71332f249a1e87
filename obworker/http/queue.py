"""Where whole requests wait for a free executor thread, first come first served.

One queue for each worker. (A queue for all workers is the next step: docs/design.md.)
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]


class Executors:
    """Threads that run jobs; all methods but `run_here` are called from the event loop's thread.

    A job never raises: what it runs is the request seam, which catches. `on_free` is called when
    one has ended and the next would not have to wait.
    """

    def __init__(self, threads: int, on_free: Callable[[], None]) -> None:
        self.threads = threads
        self._on_free = on_free
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._unfinished = 0

    def start(self) -> None:
        """Start the threads; called once, after the last fork."""
        for _ in range(self.threads):
            self.add_thread()

    def add_thread(self) -> None:
        """Start one more thread."""
        threading.Thread(target=self.run_here, name="executor", daemon=True).start()

    def run_here(self) -> None:
        """Run jobs on the calling thread until `stop`."""
        while (job := self._jobs.get()) is not None:
            job()

    def wake(self) -> None:
        """Let a thread that waits for a job run its pending signals."""
        self._jobs.put(_nothing)

    def stop(self) -> None:
        """End one thread once the jobs before it are done."""
        self._jobs.put(None)

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._unfinished += 1
        self._jobs.put(job)

    def run_now(self, job: Job) -> None:
        """Run a job on the calling thread, past the queue."""
        self._unfinished += 1
        job()

    def finished(self) -> None:
        """Count a job as done: its response is on its way."""
        self._unfinished -= 1
        if not self.busy:
            self._on_free()

    @property
    def busy(self) -> bool:
        """Whether a job submitted now would have to wait."""
        return self._unfinished >= self.threads


def _nothing() -> None:
    """Be a job."""
