"""The access log: one line a request, in a file or on standard output.

Theory of operation. For each request only a small record is put into a queue. A thread formats the
records, and writes each line in a single write. It looks into the queue every 20 ms while requests
come, so that no request has to wake it, and sleeps when none has come for a second. If the reader
of a pipe stalls or the disk is slow, this thread waits, and no request does. The queue is bounded:
beyond that lines are lost, and the log says how many. They are also lost if writing fails; it is
tried again after some seconds, as nobody would think of the log when a full disk was cleared.

A process that is killed loses the lines of its last moments; one that ends calls `close`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import stat
import threading
import time
from collections import deque

from obworker.access_lines import FORMATS, AccessRecord
from obworker.errors import UsageError
from obworker.log_files import append, append_again, open_log
from obworker.printing import STANDARD_OUTPUT

logger = logging.getLogger("obworker.log")

OPTION = "--access-log-file"
INTERVAL = 0.02
SLEEPY_AFTER = 1.0
MOST_WAITING = 10_000
CLOSE_TIMEOUT = 1.0
LOSS_INTERVAL = 1.0
"""The log reports lost lines at most once in this time."""
RETRY_INTERVAL = 10.0
"""For this time after a failure lines are lost; then the next line is tried."""


class AccessLog:
    """The access log of a process; `slot` is that of a worker, else None.

    `write` and `reopen` are for one thread, and never block. The first of them starts the thread
    that writes, so they must not be called before the last fork.
    """

    def __init__(self, path: str | None, format: str, slot: int | None) -> None:
        """Open the file, or standard output where `path` is None."""
        self._output = _Output(path)
        self._format = FORMATS[format]
        self._slot = slot
        # None means to open the file again, after the records before it.
        self._waiting: deque[AccessRecord | None] = deque()
        self._lost = self._told = 0
        self._tell_due = 0.0
        self._thread: threading.Thread | None = None
        self._sleeps = True
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._starting = threading.Lock()
        self._over = threading.Event()

    def write(self, record: AccessRecord) -> None:
        """Have a line written soon; it is lost if too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
        else:
            self._put(record)

    def reopen(self) -> None:
        """Open the file again, after it was renamed; also try again if writing has failed."""
        self._put(None)

    def close(self) -> None:
        """Write what waits, for at most CLOSE_TIMEOUT seconds, and close the file."""
        with self._starting:  # another thread may be about to write the first record
            self._closing.set()
        self._woken.set()
        if self._thread is None:
            self._output.close()
        else:
            self._over.wait(CLOSE_TIMEOUT)  # not join(): Ctrl-C may have interrupted start()

    def _put(self, item: AccessRecord | None) -> None:
        self._waiting.append(item)
        if self._sleeps:
            self._wake()

    def _wake(self) -> None:
        self._sleeps = False
        self._woken.set()
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._closing.is_set():
                return
            thread = threading.Thread(target=self._run, name="access log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # at the limit on threads; the next record tries again
                self._sleeps = True
            else:
                self._thread = thread

    # the writer's thread

    def _run(self) -> None:
        last = time.monotonic()
        while not self._closing.wait(INTERVAL):
            if self._waiting:
                self._write_all()
                last = time.monotonic()
            elif time.monotonic() - last >= SLEEPY_AFTER:
                self._sleep()
        self._write_all()
        self._tell_of_losses()
        self._output.close()
        self._over.set()

    def _sleep(self) -> None:
        """Wait until there is a record; `_put` checks `_sleeps` after adding one."""
        self._woken.clear()
        self._sleeps = True
        if not self._waiting and not self._closing.is_set():
            self._woken.wait()
        self._sleeps = False

    def _write_all(self) -> None:
        while self._waiting:
            record = self._waiting.popleft()
            if record is None:
                self._output.reopen()
            elif self._output.is_due(time.monotonic()):
                self._write_line(self._format(record, self._slot))
        self._tell_of_losses_at_times()

    def _write_line(self, line: bytes) -> None:
        while not self._output.has_room(LOSS_INTERVAL):
            self._tell_of_losses_at_times()
        self._output.write(line)

    def _tell_of_losses_at_times(self) -> None:
        now = time.monotonic()
        if now >= self._tell_due and self._tell_of_losses():
            self._tell_due = now + LOSS_INTERVAL

    def _tell_of_losses(self) -> int:
        count = self._lost - self._told
        if count:
            self._told += count
            name = self._output.name
            logger.warning("the access log lost %d lines: %s takes them too slowly", count, name)
        return count


class _Output:
    """A file, or standard output; it takes no lines for some seconds after a failure."""

    def __init__(self, path: str | None) -> None:
        self.name = path or "standard output"
        self._path = path
        self._missed = 0
        self._retry_due: float | None = None
        self._is_torn = False
        self._descriptor = STANDARD_OUTPUT if path is None else self._open(path)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)
        self._may_stall = self._has_reader()

    def _open(self, path: str) -> int:
        """Open the file; if that fails by now, the worker starts without it."""
        try:
            return open_log(OPTION, path)
        except UsageError as error:
            self._fail(str(error))
            return os.open(os.devnull, os.O_WRONLY)

    def is_due(self, now: float) -> bool:
        """Return whether the next line should be written; else it is lost."""
        is_due = self._retry_due is None or (now >= self._retry_due and self._can_retry(now))
        self._missed += not is_due
        return is_due

    def _can_retry(self, now: float) -> bool:
        self._retry_due = now + RETRY_INTERVAL
        try:
            if self._path is not None:
                append(self._path, (self._descriptor,))
                self._may_stall = self._has_reader()
        except OSError:
            return False
        return True

    def has_room(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until it takes a line; return whether it does."""
        return not self._may_stall or bool(self._poll.poll(timeout * 1000))

    def write(self, line: bytes) -> None:
        """Write a line; begin with a line end if the last one was only written in part."""
        rest = b"\n" + line if self._is_torn else line
        try:
            while rest:
                with contextlib.suppress(BlockingIOError):  # a terminal that was made non-blocking
                    written = os.write(self._descriptor, rest)
                    rest, self._is_torn = rest[written:], written < len(rest)
        except OSError as error:  # the reader has gone, or the disk is full
            self._missed += 1
            self._fail(f"{self.name}: {error.strerror}")
        else:
            self._go_on()

    def _fail(self, why: str) -> None:
        if self._retry_due is None:
            logger.warning("no access log for now: %s", why)
        self._retry_due = time.monotonic() + RETRY_INTERVAL

    def _go_on(self) -> None:
        if self._retry_due is not None:
            logger.info("the access log goes on: %s; %d lines were lost", self.name, self._missed)
            self._missed, self._retry_due = 0, None

    def reopen(self) -> None:
        """Open the path again, if there is one; try again if writing has failed."""
        if self._retry_due is not None:
            self._retry_due = -math.inf
        if self._path is not None:
            append_again(OPTION, self._path, (self._descriptor,))
            self._may_stall = self._has_reader()
            self._is_torn = False

    def close(self) -> None:
        """Close the file."""
        if self._path is not None:
            os.close(self._descriptor)

    def _has_reader(self) -> bool:
        """Whether it is no regular file: a pipe, say, takes no more than is read from it."""
        return not stat.S_ISREG(os.fstat(self._descriptor).st_mode)
