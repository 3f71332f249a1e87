"""The master's side of the molds: the processes that import the user's code, one per generation.

At most two are needed: that of the current generation and that of a reload. This module starts,
commands and kills molds; generations.py decides what follows from their ends.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from obworker.http.exchange import Exchange
from obworker.supervisor import bootstrap, exits, linux
from obworker.supervisor.certificates import Certificates
from obworker.supervisor.listeners import Listeners
from obworker.supervisor.messages import Channel, Failed, Load, Loaded, Spawn
from obworker.supervisor.plan import Plan
from obworker.supervisor.scoreboard import MAX_MOLDS

logger = logging.getLogger("obworker.master")

DUMP_TIMEOUT = 1.0
KILL_TIMEOUT = 30.0


@dataclass
class Mold:
    """A mold's process.

    `reason` is why it was killed, if for a fault; `dismissed` says that it is not needed any more.
    If it is still there at `stuck_due`, after it was killed, nothing will end it.
    """

    generation: int
    plan: Plan
    pid: int
    channel: Channel
    deadline: float
    loaded: Loaded | None = None
    loaded_at: float = 0.0
    reason: str = ""
    dismissed: bool = False
    stuck_due: float = math.inf

    def kill(self) -> None:
        """Send SIGKILL to its process group."""
        linux.kill_group(self.pid, signal.SIGKILL)
        self.stuck_due = min(self.stuck_due, time.monotonic() + KILL_TIMEOUT)

    @property
    def next_deadline(self) -> float:
        """When something is due for it; infinite if nothing is."""
        return self.stuck_due if self.loaded else min(self.deadline, self.stuck_due)


@dataclass(frozen=True)
class Descriptors:
    """The descriptors that every mold and worker inherits."""

    listeners: Listeners
    scoreboard: int
    exchange: Exchange

    def execute(
        self, entry: str, end: Channel, environ: dict[str, str], certificates: Certificates
    ) -> int:
        """Run an entry point of mold.py in a new Python process and session; return its pid.

        Raises:
            OSError: the process cannot be made.
        """
        board, channel = self.scoreboard, end.fileno()
        served = [listener.fileno() for listener in self.listeners.sockets]
        exchange = list(self.exchange.descriptors)
        with certificates.lent() as lent:
            arguments = f"{channel}, {served}, {board}, {exchange}, {lent}"
            statement = f"from obworker.supervisor.mold import {entry}; {entry}({arguments})"
            return bootstrap.spawn(statement, environ, (channel, *served, board, *exchange, lent))


def order_to_load(generation: int, plan: Plan) -> Load:
    """Return the message that tells a process what to import."""
    return Load(
        generation=generation,
        factory=plan.factory,
        arguments=plan.arguments,
        settings=dataclasses.asdict(plan.settings),
        label=plan.label,
        api_keys=plan.api_keys,
    )


class Molds:
    """All molds; `on_loaded` and `on_failed` are told how an import went."""

    def __init__(
        self,
        descriptors: Descriptors,
        selector: selectors.BaseSelector,
        *,
        on_loaded: Callable[[Mold, Loaded], None],
        on_failed: Callable[[Mold, Failed], None],
    ) -> None:
        self._descriptors = descriptors
        self._selector = selector
        self._on_loaded = on_loaded
        self._on_failed = on_failed
        self._molds: dict[int, Mold] = {}

    def get(self, generation: int) -> Mold | None:
        """Return the mold of a generation, if there is one."""
        return self._molds.get(generation)

    def can_fork(self, generation: int) -> bool:
        """Whether the mold of a generation can fork workers now."""
        mold = self._molds.get(generation)
        return mold is not None and mold.loaded is not None and not mold.dismissed

    @property
    def pids(self) -> list[int]:
        """The pids of the molds that are needed, as the scoreboard has them: 0 is none."""
        needed = [mold.pid for mold in self._molds.values() if not mold.dismissed]
        return (needed + [0] * MAX_MOLDS)[:MAX_MOLDS]

    @property
    def importing(self) -> dict[int, str]:
        """The names, by pid, of the processes that still import the user's code, or preload."""
        molds = self._molds.values()
        return {
            mold.pid: f"mold g{mold.generation}"
            for mold in molds
            if mold.loaded is None and not mold.dismissed
        }

    @property
    def is_gone(self) -> bool:
        """Whether there is no mold."""
        return not self._molds

    @property
    def next_deadline(self) -> float | None:
        """When `tend` has something to do."""
        return min((mold.next_deadline for mold in self._molds.values()), default=None)

    def start(self, generation: int, plan: Plan, now: float) -> None:
        """Start the mold of a generation.

        Raises:
            OSError: the process cannot be made.
        """
        ours, theirs = Channel.pair()
        try:
            environ = plan.environ | plan.budget.mold_environ
            pid = self._descriptors.execute("main", theirs, environ, plan.certificates)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.set_blocking(False)
        mold = Mold(generation, plan, pid, ours, now + plan.settings.load_timeout)
        self._molds[generation] = mold
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._read(mold))
        ours.send(order_to_load(generation, plan))

    def tend(self, now: float) -> list[Mold]:
        """End imports that take too long, after a dump of their stacks; return unkillable molds."""
        for mold in self._molds.values():
            if mold.loaded is None and now >= mold.deadline:
                self._end_import(mold, now)
        unkillable = [mold for mold in self._molds.values() if now >= mold.stuck_due]
        for mold in unkillable:
            logger.error("the mold (pid %d) %s; going on without", mold.pid, exits.UNKILLABLE)
            self._forget(mold)
        return unkillable

    def _end_import(self, mold: Mold, now: float) -> None:
        if mold.reason:
            mold.kill()
        else:
            linux.signal_process(mold.pid, linux.DUMP_SIGNAL)
        limit = mold.plan.settings.load_timeout
        mold.reason = f"took longer than {limit:g} s, see --load-timeout, and "
        mold.deadline = now + DUMP_TIMEOUT

    def order(self, generation: int, spawn: Spawn, end: Channel) -> None:
        """Have the mold fork a worker, which gets `end` of a channel to the master."""
        self._molds[generation].channel.send(spawn, end=end)

    def dismiss(self, *, spare: int | None = None) -> None:
        """Kill the molds that are not needed any more: all but that of generation `spare`."""
        for mold in self._molds.values():
            if mold.generation != spare:
                mold.dismissed = True
                mold.kill()

    def kill(self, generation: int) -> None:
        """Kill the mold of a generation, if there is one, as it does not do its work."""
        mold = self._molds.get(generation)
        if mold is not None:
            mold.kill()

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every mold."""
        for mold in self._molds.values():
            linux.signal_process(mold.pid, number)

    def exited(self, pid: int) -> Mold | None:
        """Forget a child that has ended, and return it, if it was a mold."""
        mold = next((mold for mold in self._molds.values() if mold.pid == pid), None)
        if mold is not None:
            self._forget(mold)
        return mold

    def _forget(self, mold: Mold) -> None:
        del self._molds[mold.generation]
        self._selector.unregister(mold.channel)
        mold.channel.close()

    def _read(self, mold: Mold) -> None:
        for message in mold.channel.receive_all():
            if mold.dismissed:
                continue  # it does not matter any more
            if isinstance(message, Loaded):
                mold.loaded, mold.loaded_at = message, time.monotonic()
                self._on_loaded(mold, message)
            elif isinstance(message, Failed):
                self._on_failed(mold, message)
            elif message is None:  # it is ending, or cannot be talked to any more
                mold.kill()
