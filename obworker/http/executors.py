"""The threads that call predict, and who runs the event loop meanwhile.

Theory of operation. To hand a request to another thread and its answer back costs more than all
the rest of a fast request: two threads are woken that share the interpreter's lock. So with one
executor there are two ways, and they change by themselves:

    inline    The executor's own thread runs the loop, and calls predict between two events. Another
              thread, the *relief*, looks at it every few milliseconds. When predict takes longer
              than that, the relief takes the loop over: clients are read, deadlines kept and probes
              answered as if nothing had happened, and it is beside from then on.
    beside    The relief runs the loop and queues what is to be run. When calls have become so short
              that handing them over is most of their cost, it gives the loop back.

What decides is the *wheel*, a lock that whoever runs the loop holds, but for the time of a call
that is inline. Then the relief may take it. The executor tries to have it back afterwards, without
waiting: of the two exactly one succeeds, and that one runs the loop. predict itself is always
called on the same thread: libraries keep state by thread (OpenMP a pool of threads for each).

With several executors, or `inline=False`, it is always beside.
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
Run = Callable[[Job, Done], None]

# A call that is inline may keep the loop this long before the relief takes over.
PATIENCE = 0.002
# Calls shorter than this on average are inline: to hand one over and back costs a third of it.
SHORT = 0.0003
# One long call is not to count for ever.
MOST_COUNTED = 20 * SHORT
# The relief sleeps when it has seen nothing to relieve so many times in a row.
IDLE_LOOKS = 50


class Executors:
    """Threads that run jobs; `done` of a job gets its result in the loop's thread.

    A job never raises: what it runs is the request seam, which catches. `on_free` is called in the
    loop's thread when one has ended and the next would not have to wait, `on_relieved` when the
    loop goes on although a call is under way that was inline. `average` is how long a call takes of
    late, in seconds. Methods are for the loop's thread, unless they say otherwise.
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
        self._reactor = reactor
        self._on_free = on_free
        self._on_relieved = on_relieved
        self._jobs: queue.SimpleQueue[tuple[Job, Done] | None] = queue.SimpleQueue()
        self._unfinished = 0
        self._wheel = threading.Lock()
        self._home, self._relief = Turn(), Turn()
        self._entered = 0.0
        self._alarm, self._need = threading.Event(), threading.Event()
        self._stopping = False

    # what threads run

    def start(self) -> None:
        """Start all threads but the first executor, which is the caller of `run_here`."""
        for _ in range(self.threads - 1):
            threading.Thread(target=self.run_here, name="executor", daemon=True).start()
        self._wheel.acquire()
        if self._may_inline:
            self._home.steers = True
            self._jobs.put((self._steer, _ignore))
        else:
            self._relief.steers = True
        threading.Thread(target=self._relieve, name="event loop", daemon=True).start()

    def run_here(self) -> None:
        """Run jobs on the calling thread until `stop`."""
        while (item := self._jobs.get()) is not None:
            job, done = item
            if done is _ignore:
                job()
            else:
                self._reactor.post(done, self._timed(job))

    def wake(self) -> None:
        """Let a thread that waits for a job run its pending signals; from any thread."""
        self._jobs.put((_do_nothing, _ignore))

    def stop(self) -> None:
        """End the threads: each as soon as it has no job, the loop's at once."""
        self._stopping = True
        self._home.steers = self._relief.steers = False
        self._need.set()
        self._alarm.set()
        for _ in range(self.threads):
            self._jobs.put(None)

    # jobs

    @property
    def is_inline(self) -> bool:
        """Whether a job submitted now would keep the loop until it is over."""
        return self._home.steers and not self._relief.steers

    @property
    def busy(self) -> bool:
        """Whether a job submitted now would have to wait."""
        return self._unfinished >= self.threads

    def submit(self, job: Job, done: Done) -> None:
        """Run a job on an executor's thread; this very one, where it is inline."""
        self._unfinished += 1
        if self.is_inline:
            self._run_inline(job, done)
        else:
            self._jobs.put((job, done))

    def run_now(self, job: Job, done: Done) -> None:
        """Run a job on the loop's thread, past the queue; one that takes no time."""
        self._unfinished += 1
        self._conclude(done, job())

    def finished(self) -> None:
        """Count a job as over: its response is on its way, or nobody waits for it."""
        self._unfinished -= 1
        if self._unfinished < self.threads:
            self._on_free()
            if self._may_inline and self.average < SHORT and not self._unfinished:
                self._relief.steers = False  # gives the loop back, where it has it

    def relieve(self) -> None:
        """Have somebody run the loop, although a call is under way that is inline.

        From the thread of that call: it waits for something that the loop does.
        """
        if self.is_inline:
            self._need.set()
            self._alarm.set()

    # the executor's side

    def _steer(self) -> None:
        """Run the loop on the executor's thread, from when the relief lets go of it."""
        if not self._home.steers:
            self._wheel.acquire()
            self._home.steers = not self._stopping
        self._reactor.run(self._home)

    def _run_inline(self, job: Job, done: Done) -> None:
        self._entered = time.monotonic()
        if self.average >= SHORT:
            self.relieve()
        elif not self._alarm.is_set():
            self._alarm.set()
        self._wheel.release()
        result = self._timed(job)
        self._entered = 0.0
        if self._wheel.acquire(blocking=False):
            self._conclude(done, result)
        else:
            self._home.steers = False
            self._reactor.post(done, result)

    def _conclude(self, done: Done, result: object) -> None:
        """Go on with a result; what the job has posted comes first."""
        if self._reactor.has_posted:
            self._reactor.post(done, result)
        else:
            done(result)

    def _timed(self, job: Job) -> object:
        begun = time.monotonic()
        result = job()
        took = min(time.monotonic() - begun, MOST_COUNTED)
        self.average += (took - self.average) / 8
        return result

    # the relief's side

    def _relieve(self) -> None:
        """Be the relief, for the life of the process."""
        while not self._stopping:
            if self._relief.steers:
                self._reactor.run(self._relief)
                self._jobs.put((self._steer, _ignore))
                self._wheel.release()
            self._alarm.wait()
            self._alarm.clear()
            self._watch_home()

    def _watch_home(self) -> None:
        """Look at the executor until it has been idle for a while, or take over."""
        looks = 0
        while looks < IDLE_LOOKS and not self._stopping:
            is_needed = self._need.wait(PATIENCE)
            entered = self._entered
            if is_needed or (entered and time.monotonic() - entered >= PATIENCE):
                self._need.clear()
                if self._wheel.acquire(blocking=False):
                    self._take_over()
                    return
            looks = 0 if entered else looks + 1

    def _take_over(self) -> None:
        self._relief.steers = True
        self.average = max(self.average, SHORT)  # the call under way counts already
        self._on_relieved()


def _do_nothing() -> None:
    """Be a job."""


def _ignore(_result: object) -> None:
    """Mark what is no call of predict."""
