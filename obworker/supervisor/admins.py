"""The master's side of the admin process: binds its address, starts it, keeps it alive.

The master keeps the listener, so the address stays the same and connections wait while the process
is replaced. The process also runs without an address: it ends what is left when the master is
killed (admin/undertaker.py).
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from obworker.errors import ListenError
from obworker.printing import STANDARD_ERROR, STANDARD_OUTPUT
from obworker.settings import Settings
from obworker.supervisor import bootstrap, exits, linux, listeners
from obworker.supervisor.listeners import Address
from obworker.supervisor.policy import RestartPolicy

logger = logging.getLogger("obworker.master")

DEFAULT_ADDRESS = Address("127.0.0.1", 25253)
ENTRY = "from obworker.admin.process import main; main({}, {}, {}, {!r}, {!r})"
GOOD_BYE, LOG = b".", b"l"
BACKLOG = 64
OUTPUTS = (STANDARD_OUTPUT, STANDARD_ERROR)
LEAVE_TIMEOUT = 2.0
KILL_TIMEOUT = 5.0


def bind_admin(settings: Settings) -> tuple[socket.socket | None, Address | None]:
    """Bind the address of the admin process; go without if the default one cannot be bound.

    Raises:
        ListenError: the address in --admin-bind cannot be bound.
    """
    if settings.admin_bind == "off":
        return None, None
    wanted = Address.parse(settings.admin_bind) if settings.admin_bind else DEFAULT_ADDRESS
    try:
        return listeners.bind(wanted, settings.unix_mode)
    except ListenError as error:
        if settings.admin_bind:
            raise ListenError(
                f"--admin-bind: {error}", hint="give another address, or off"
            ) from error
        logger.warning("no health endpoints: %s; see --admin-bind", error)
        return None, None


@dataclass
class Process:
    """The admin process that runs now."""

    pid: int
    channel: socket.socket
    started_at: float
    was_killed: bool = False


class Admin:
    """Keeps one admin process alive; no method waits for it."""

    def __init__(
        self,
        scoreboard: int,
        listener: socket.socket | None,
        environ: Mapping[str, str],
        log_level: str,
        *,
        lent: bool = False,
        metrics: Path | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._scoreboard = scoreboard
        if listener is not None:  # from now on a probe waits for the process
            listeners.claim(listener, alone=False)
            listener.listen(BACKLOG)
        self._listener = listener
        self._lent = lent
        self._environ = dict(environ)
        self._log_level = log_level
        self._metrics = "" if metrics is None else str(metrics)
        self._restarts = RestartPolicy(chance)
        self._process: Process | None = None
        self._due: float | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The pid of the process, if there is one."""
        return None if self._process is None else self._process.pid

    @property
    def is_gone(self) -> bool:
        """Whether there is no process, and will be none."""
        return self._stopping and self._process is None

    @property
    def next_deadline(self) -> float | None:
        """When `tend` has something to do."""
        return self._due

    def start(self, now: float) -> None:
        """Start the process; if that fails, try again later."""
        try:
            self._process = self._make(now)
            self._due = None
        except OSError as error:
            self._start_later(f"cannot be made: {linux.why_no_process(error)}", now, ready_at=None)

    def exited(self, pid: int, code: int, now: float) -> bool:
        """Account for a child that has ended; return whether it was the admin process."""
        process = self._process
        if process is None or process.pid != pid:
            return False
        self._forget(process)
        if not self._stopping:
            self._start_later(exits.describe(code), now, ready_at=process.started_at)
        return True

    def tend(self, now: float) -> None:
        """Do what is due: start the process again, or kill it if it does not leave."""
        if self._due is None or now < self._due:
            return
        if self._process is None:
            self.start(now)
        elif not self._process.was_killed:
            self._process.was_killed, self._due = True, now + KILL_TIMEOUT
            linux.kill_group(self._process.pid, signal.SIGKILL)
        else:
            logger.error("the admin process %s; going on without", exits.UNKILLABLE)
            self._forget(self._process)

    def _forget(self, process: Process) -> None:
        process.channel.close()
        self._process = self._due = None

    def follow_log(self) -> None:
        """Pass on the outputs of this process, after the files of the log were opened again."""
        if self._process is not None:
            with contextlib.suppress(OSError):  # it is ending, or is stopped
                channel = self._process.channel
                socket.send_fds(channel, [LOG], OUTPUTS, socket.MSG_DONTWAIT)

    def stop(self, now: float) -> None:
        """Let the process leave. Called last: until then it reports that obworker is stopping."""
        self._stopping = True
        self._due = None
        if self._process is not None:
            self._due = now + LEAVE_TIMEOUT
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._process.channel.send(GOOD_BYE)
        if self._listener is not None:
            listeners.close(self._listener, lent=self._lent)
            self._listener = None

    def _make(self, now: float) -> Process:
        ours, theirs = socket.socketpair()
        try:
            return Process(self._execute(theirs), ours, now)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()

    def _execute(self, end: socket.socket) -> int:
        listener = -1 if self._listener is None else self._listener.fileno()
        shared = (self._scoreboard, listener, end.fileno())
        entry = ENTRY.format(*shared, self._log_level, self._metrics)
        return bootstrap.spawn(entry, self._environ, {*shared} - {-1})

    def _start_later(self, what: str, now: float, *, ready_at: float | None) -> None:
        wait = self._restarts.ended(now, ready_at=ready_at)
        self._due = now + wait
        logger.error("the admin process %s; it starts again in %.1f s", what, wait)
