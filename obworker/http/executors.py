"""The threads that call predict, and the one that runs the event loop meanwhile.

Theory of operation. Waking another thread costs more than all the rest of a short request; on a
virtual machine, a part of a millisecond. So as few threads as possible are woken. With one executor
there are two modes, which alternate by themselves:

    inline    The executor's own thread runs the loop, and calls predict between two events. Another
              thread, the *relief*, checks on it every few milliseconds. If predict takes longer,
              the relief takes over the loop: clients are read, deadlines kept and probes answered
              as usual.
    beside    The relief runs the loop and queues jobs. The executor sends its responses itself, and
              fetches its next job itself; when calls have become short, it takes the loop back.

The state of the loop is guarded by a lock, the *wheel*. The thread that runs the loop holds it
while it handles events, but not while it waits for them, nor during an inline call. So an executor
that has finished a call gets the wheel at once, and sends the response. predict itself is always
called on the same thread: libraries keep state by thread (OpenMP a pool of threads for each).

With several executors, or `inline=False`, the mode is always beside.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from obworker.http.reactor import Reactor, Turn

Job = Callable[[], Any]
Done = Callable[[Any], object]

# An inline call may occupy the loop for this long before the relief takes over.
PATIENCE = 0.002
# Calls that are shorter on average are inline: waking an executor costs a third of this.
SHORT = 0.0003
# A single call counts for no more than this, or a long one would weigh for ever.
MOST_COUNTED = 20 * SHORT
# The relief sleeps after it has found the executor idle so many times in a row.
IDLE_LOOKS = 50


class Executors:
    """Threads that run jobs; `done` of a job gets its result, and holds the wheel.

    A job never raises: it is the request seam, which catches everything. `on_free` is called when a
    job has ended and the next would not have to wait (inline, none ever waits), `on_relieved` when
    the relief takes over the loop during an inline call. While it `is_inline`, a job that is
    submitted runs at once, and occupies the loop. `average` is the recent average of the time of a
    call, in seconds. Methods are for the holder of the wheel, unless they say otherwise.
    """

    def __init__(
        self,
        reactor: Reactor,
        threads: int,
        *,
        on_free: Callable[[], None],
        on_relieved: Callable[[], None],
        inline: bool = True,
    ) -> None:
        self.threads = threads
        self._may_inline = inline and threads == 1
        self.average = 0.0 if self._may_inline else SHORT
        self.is_inline = False
        self._reactor = reactor
        self._on_free = on_free
        self._on_relieved = on_relieved
        self._jobs: queue.SimpleQueue[tuple[Job, Done] | None] = queue.SimpleQueue()
        self._unfinished = 0
        self._wheel = threading.RLock()
        self._home, self._relief = Turn(), Turn(steers=not self._may_inline)
        self._entered = 0.0
        self._alarm, self._need = threading.Event(), threading.Event()
        self._stopping = False

    # what threads run

    def start(self) -> None:
        """Start all threads except the first executor, which is the caller of `run_here`."""
        for _ in range(self.threads - 1):
            threading.Thread(target=self.run_here, name="executor", daemon=True).start()
        threading.Thread(target=self._relieve, name="event loop", daemon=True).start()

    def steer(self, turn: Turn) -> None:
        """Run the loop on the calling thread until `turn` ends; instead of `start`."""
        self._reactor.run(turn, self._wheel)

    def run_here(self) -> None:
        """Run jobs on the calling thread, as an executor, until `stop`."""
        self._steer_if_short()
        while (item := self._jobs.get()) is not None:
            self._run_beside(*item)
            del item  # or the last request would stay in memory until the next one
            self._steer_if_short()

    def wake(self) -> None:
        """Wake an executor, so that Python handles pending signals there; from any thread."""
        self._reactor.post(self.submit, lambda: None, lambda _: None)

    def stop(self) -> None:
        """End the threads: executors as soon as they have no job, the loop's at once."""
        self._stopping = True
        self.is_inline = False
        self._home.end()
        self._relief.end()
        self._reactor.ring()
        self._need.set()
        self._alarm.set()
        for _ in range(self.threads):
            self._jobs.put(None)

    # jobs

    @property
    def busy(self) -> bool:
        """Whether a job submitted now would have to wait."""
        return self._unfinished >= self.threads

    def submit(self, job: Job, done: Done) -> None:
        """Run a job on an executor's thread, which is the calling one if it is inline."""
        self._unfinished += 1
        if self.is_inline:
            self._run_inline(job, done)
        else:
            self._jobs.put((job, done))

    def run_now(self, job: Job, done: Done) -> None:
        """Run a job that takes no time, on the loop's thread and past the queue."""
        self._unfinished += 1
        try:
            done(job())
        finally:
            self._finished()

    def _finished(self) -> None:
        self._unfinished -= 1
        if not self.is_inline and self._unfinished < self.threads:
            self._on_free()

    # for the thread of a job

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Make a call while holding the wheel."""
        with self._wheel:
            function(*arguments)

    def relieve(self) -> None:
        """Have the relief run the loop if this call is inline, as the call waits for an event."""
        if self.is_inline:
            self._need.set()
            self._alarm.set()

    # the executor's side

    def _steer_if_short(self) -> None:
        """Run the loop on this thread for as long as calls are short."""
        if not self._may_inline or self.average >= SHORT:
            return
        with self._wheel:
            if not self._unfinished and not self._stopping:
                self.is_inline = self._home.steers = True
                self._relief.end()
                self._reactor.ring()
        self._reactor.run(self._home, self._wheel)

    def _run_inline(self, job: Job, done: Done) -> None:
        if self.average >= SHORT:
            self.relieve()
        elif not self._alarm.is_set():
            self._alarm.set()
        self._entered = begun = time.monotonic()
        self._wheel.release()
        try:
            result = job()
        finally:
            self._entered = 0.0
            self._count(time.monotonic() - begun)
            self._wheel.acquire()
        try:
            done(result)
        finally:  # whatever goes wrong here, the executor is free for the next call
            self._finished()

    def _run_beside(self, job: Job, done: Done) -> None:
        begun = time.monotonic()
        result = job()
        self._count(time.monotonic() - begun)
        with self._wheel:
            self._reactor.call_safely(done, result)
            self._reactor.call_safely(self._finished)

    def _count(self, seconds: float) -> None:
        counted = min(MOST_COUNTED, seconds)
        self.average += (counted - self.average) / 8

    # the relief's side

    def _relieve(self) -> None:
        """Be the relief, until `stop`."""
        while not self._stopping:
            self._reactor.run(self._relief, self._wheel)
            self._alarm.wait()
            self._alarm.clear()
            self._watch_home()

    def _watch_home(self) -> None:
        """Watch the executor until it has been idle for a while, or until taking over."""
        looks = 0
        while looks < IDLE_LOOKS and not self._stopping:
            is_needed = self._need.wait(PATIENCE)
            entered = self._entered
            if is_needed or (entered and time.monotonic() - entered >= PATIENCE):
                self._need.clear()
                if self._took_over():
                    return
            looks = 0 if entered else looks + 1

    def _took_over(self) -> bool:
        """Take the loop, unless the executor runs it again; return whether the relief has it."""
        if not self._wheel.acquire(blocking=False):
            return False
        try:
            # Without a call under way the executor waits for events, and would not see any jobs.
            if self._home.steers and self._entered:
                self.is_inline = self._home.steers = False
                self._relief.steers = True
                self.average = max(self.average, SHORT)  # the call under way is not short
                self._on_relieved()
            return self._relief.steers
        finally:
            self._wheel.release()
