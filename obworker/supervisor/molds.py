"""The master's side of the mold: one is kept alive, and a new one made when it dies.

Workers that serve do not need the mold, so its death costs no request. Only the first import
decides about the start: when it fails, so does the start. What fails later is tried again.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from obworker.errors import BootError, LoadError, ObworkerError
from obworker.supervisor import bootstrap, exits, linux
from obworker.supervisor.messages import Channel, Load, Loaded, LoadFailed, Spawn
from obworker.supervisor.plan import Plan
from obworker.supervisor.policy import BootPolicy, RestartPolicy

logger = logging.getLogger("obworker.master")

KILL_TIMEOUT = 1.0


@dataclass
class Mold:
    """A mold's process."""

    pid: int
    channel: Channel
    deadline: float
    loaded_at: float | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether it can fork."""
        return self.loaded_at is not None


class Molds:
    """Keeps a mold; `on_loaded` learns of every import, `on_failed` if the first one fails."""

    def __init__(
        self,
        plan: Plan,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        *,
        on_loaded: Callable[[int, Loaded], None],
        on_failed: Callable[[ObworkerError], None],
    ) -> None:
        self.generation = 0
        self._plan = plan
        self._listener = listener
        self._selector = selector
        self._on_loaded = on_loaded
        self._on_failed = on_failed
        self._mold: Mold | None = None
        self._policy = RestartPolicy(random.random)
        self._boots = BootPolicy()
        self._reason = ""
        self._due = 0.0
        self._was_ever_loaded = False
        self._stopping = False

    @property
    def can_fork(self) -> bool:
        """Whether a worker can be asked for now."""
        return self._mold is not None and self._mold.is_loaded and not self._stopping

    @property
    def is_gone(self) -> bool:
        """Whether there is no process."""
        return self._mold is None

    @property
    def next_deadline(self) -> float | None:
        """The moment at which `tend` has something to do."""
        if self._mold is None:
            return None if self._stopping else self._due
        return None if self._mold.is_loaded else self._mold.deadline

    def tend(self, now: float) -> None:
        """Start a mold that is due, kill one that imports for too long."""
        if self._mold is None:
            if not self._stopping and now >= self._due:
                self._start(now)
        elif not self._mold.is_loaded and now >= self._mold.deadline:
            limit = self._plan.settings.load_timeout
            self._reason = f"took longer than {limit:g} s, see --load-timeout, and "
            self._mold.deadline = now + KILL_TIMEOUT
            self.kill()

    def proved(self) -> None:
        """Note that a worker became ready: what the mold imported works."""
        self._boots.ready()

    def order(self, spawn: Spawn, end: Channel) -> None:
        """Ask for a worker, which gets `end` of a channel to the master."""
        assert self._mold is not None
        self._mold.channel.send(spawn, end=end)

    def kill(self) -> None:
        """Kill the process, if there is one."""
        if self._mold is not None:
            linux.kill_group(self._mold.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Kill the process and start none again."""
        self._stopping = True
        self.kill()

    def exited(self, pid: int, code: int, now: float) -> bool:
        """Account for a child that ended; return whether it was the mold."""
        if self._mold is None or self._mold.pid != pid:
            return False
        self._selector.unregister(self._mold.channel)
        self._mold.channel.close()
        gone, self._mold = self._mold, None
        if self._stopping:
            return True
        how = self._reason + exits.describe(code)
        self._reason = ""
        if not self._was_ever_loaded:
            self._on_failed(LoadError(f"{self._plan.label}: the process that imports it {how}"))
        elif self._boots.failed(certain=False):
            self._on_failed(BootError(f"the process that forks the workers {how}, again and again"))
        else:
            self._try_again(f"the mold {how}", now, gone.loaded_at)
        return True

    def _try_again(self, what: str, now: float, loaded_at: float | None) -> None:
        ready_for = None if loaded_at is None else now - loaded_at
        wait = self._policy.ended(ready_for=ready_for)
        self._due = now + wait
        logger.error("%s; workers serve on, a new one starts in %.1f s", what, wait)

    def _start(self, now: float) -> None:
        self.generation += 1
        ours, theirs = Channel.pair()
        try:
            pid = self._execute(theirs)
        except OSError as error:
            ours.close()
            self._try_again(f"the mold cannot be started: {error.strerror}", now, None)
            return
        finally:
            theirs.close()
        ours.set_blocking(False)
        self._mold = Mold(pid, ours, now + self._plan.settings.load_timeout)
        self._selector.register(ours, selectors.EVENT_READ, self._read)
        ours.send(
            Load(
                generation=self.generation,
                factory=self._plan.factory,
                arguments=self._plan.arguments,
                settings=dataclasses.asdict(self._plan.settings),
                label=self._plan.label,
            )
        )

    def _execute(self, end: Channel) -> int:
        end.set_inheritable(True)
        self._listener.set_inheritable(True)
        command = bootstrap.python(
            "from obworker.supervisor.mold import main; "
            f"main({end.fileno()}, {self._listener.fileno()})"
        )
        try:
            return os.posix_spawn(command[0], command, self._plan.environ, setsid=True)
        finally:
            self._listener.set_inheritable(False)

    def _read(self) -> None:
        mold = self._mold
        if mold is None:
            return
        for message in mold.channel.receive_all():
            if isinstance(message, Loaded):
                mold.loaded_at, self._was_ever_loaded = time.monotonic(), True
                self._on_loaded(self.generation, message)
            elif isinstance(message, LoadFailed):
                self._fail(message)
            elif message is None:
                self.kill()  # it is ending, or nobody can talk to it any more

    def _fail(self, failure: LoadFailed) -> None:
        if failure.traceback:
            logger.error("%s", failure.traceback.rstrip())
        if self._was_ever_loaded:
            logger.error("%s", failure.message)
            return
        error = LoadError(failure.message, failure.hint)
        error.exit_code = failure.exit_code
        self._on_failed(error)
