"""The process that keeps everything alive, and never runs a line of the user's code.

Theory of operation. One thread, one loop, the standard library only. The loop waits for signals,
for messages from the mold and the workers, or for the nearest deadline; then it

1. reads what signals came,
2. reads messages,
3. reaps children that ended (after reading: a worker's Spawned always comes before its end),
4. does what the table of slots says is due.

What to do about a slot is decided in slots.py; this file only knows how.
"""

from __future__ import annotations

import logging
import random
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from obworker.errors import BootError, ObworkerError
from obworker.supervisor import exits, linux, listeners
from obworker.supervisor.listeners import Address
from obworker.supervisor.messages import BootFailed, Channel, Drain, Loaded, Ready, Spawn, Spawned
from obworker.supervisor.molds import Molds
from obworker.supervisor.plan import Plan
from obworker.supervisor.signals import Signals
from obworker.supervisor.slots import HAS_PROCESS, Action, Slot, State, Table, Timeouts

logger = logging.getLogger("obworker.master")


@dataclass
class Link:
    """What connects a slot to the process that fills it."""

    channel: Channel
    failure: BootFailed | None = None
    reason: str = ""


class Master:
    """Keeps a worker in every slot until it is told to stop."""

    def __init__(
        self, plan: Plan, listener: socket.socket, address: Address, signals: Signals
    ) -> None:
        self._plan = plan
        self._listener = listener
        self._address = address
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._molds = Molds(
            plan, listener, self._selector, on_loaded=self._report, on_failed=self._give_up
        )
        self._table = Table(
            size=len(plan.devices),
            timeouts=Timeouts(
                boot=plan.settings.boot_timeout, graceful=plan.settings.graceful_timeout
            ),
            chance=random.random,
        )
        self._links: dict[int, Link] = {}
        self._body_kind = "none"
        self._is_announced = False
        self._error: ObworkerError | None = None

    def run(self) -> None:
        """Serve until a signal ends it.

        Raises:
            LoadError: the user's code cannot be imported (at the start only).
            BootError: no worker ever became ready.
        """
        linux.adopt_orphans()
        linux.raise_descriptor_limit()
        linux.set_title(f"master {self._plan.label}")
        others = linux.children()
        self._selector.register(self._signals, selectors.EVENT_READ, self._read_signals)
        while not (self._table.is_over and self._molds.is_gone):
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._reap()
            self._act()
        self._listener.close()
        linux.kill_descendants(spare=others)
        logger.info("stopped")
        if self._error is not None:
            raise self._error

    # the loop

    def _patience(self) -> float | None:
        """Return how long to wait: until the nearest deadline, or until something happens."""
        deadlines = (
            self._table.next_deadline(can_spawn=self._molds.can_fork),
            self._molds.next_deadline,
        )
        times = [deadline for deadline in deadlines if deadline is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _read_signals(self) -> None:
        for number in self._signals.take():
            if number is signal.SIGTERM:
                logger.info("SIGTERM: finishing the requests in progress")
                self._stop()
            elif number in (signal.SIGINT, signal.SIGQUIT):
                logger.info("%s: stopping at once", number.name)
                self._stop()
                self._kill_all()
            elif number is signal.SIGHUP:
                logger.warning("SIGHUP: ignored, the code cannot be reloaded yet; restart instead")

    def _reap(self) -> None:
        while (pid := linux.next_ended()) is not None:
            self._read_channels()
            slot = self._table.of_pid(pid)
            if slot is not None:
                linux.kill_rest_of_group(pid)
                self._worker_exited(slot, linux.reap(pid))
            else:
                self._other_exited(pid, linux.reap(pid))

    def _other_exited(self, pid: int, code: int) -> None:
        now = time.monotonic()
        if not self._molds.exited(pid, code, now):
            logger.debug("reaped an orphan, pid %d", pid)
            return
        for slot in self._table.slots:
            if slot.state is State.SPAWNING:
                self._forget(self._links.pop(slot.index).channel)
                self._table.unspawned(slot, now)

    def _read_channels(self) -> None:
        """Read every message that has come: the last words of whoever has ended are among them."""
        for key in list(self._selector.get_map().values()):
            if key.fileobj is not self._signals:
                key.data()

    def _act(self) -> None:
        now = time.monotonic()
        self._molds.tend(now)
        carry_out: dict[Action, Callable[[Slot], None]] = {
            Action.SPAWN: self._spawn,
            Action.DRAIN: self._drain,
            Action.KILL: self._kill_late,
            Action.GIVE_UP_SPAWN: self._give_up_spawn,
        }
        for action, slot in self._table.due(now, can_spawn=self._molds.can_fork):
            carry_out[action](slot)

    # the start-up report

    def _report(self, generation: int, loaded: Loaded) -> None:
        """Say what was found, once: a later mold imports the same."""
        if generation == 1:
            for label, text in loaded.description:
                logger.info("%-10s %s", label, text)
        logger.info("%-10s in %.2f s", "imported", loaded.seconds)
        self._body_kind = loaded.body_kind

    def _announce(self) -> None:
        """Say where it serves, once."""
        if not self._is_announced:
            self._is_announced = True
            where = self._address if self._address.path else self._address.url
            logger.info("%-10s %s", "serving", where)
            logger.info("%-10s %s", "try", self._address.curl(self._body_kind))

    # workers: how what is due is done

    def _spawn(self, slot: Slot) -> None:
        self._table.spawn(slot, time.monotonic())
        try:
            ours, theirs = Channel.pair()
        except OSError as error:
            self._spawn_failed(slot, f"no process could be asked for: {error.strerror}")
            return
        ours.set_blocking(False)
        self._links[slot.index] = Link(ours)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._read_worker(slot))
        device = self._plan.devices[slot.index]
        order = Spawn(
            slot=slot.index,
            environment=device.environment
            | self._plan.worker_environ
            | {"OBWORKER_SLOT": str(slot.index)},
            threads=self._plan.threads,
            title=f"worker {slot.index} g{self._molds.generation} {device.label}",
        )
        self._molds.order(order, theirs)
        theirs.close()

    def _drain(self, slot: Slot) -> None:
        self._table.drain(slot, time.monotonic())
        self._links[slot.index].channel.send(Drain())

    def _kill_late(self, slot: Slot) -> None:
        if slot.state is State.DRAINING:
            logger.error("worker %d did not finish in time; killing it", slot.index)
        elif not self._table.stopping:
            limit = self._plan.settings.boot_timeout
            self._links[
                slot.index
            ].reason = f"took longer than {limit:g} s, see --boot-timeout, and "
        self._kill(slot)

    def _kill(self, slot: Slot) -> None:
        self._table.kill(slot)
        if slot.pid is not None:
            linux.kill_group(slot.pid, signal.SIGKILL)

    def _give_up_spawn(self, slot: Slot) -> None:
        link = self._links.pop(slot.index)
        if not link.channel.is_closed and not self._table.stopping:
            logger.error("the mold does not fork; killing it")
            self._molds.kill()
        self._forget(link.channel)
        self._spawn_failed(slot, "ended before it could say so")

    def _spawn_failed(self, slot: Slot, how: str) -> None:
        wait = self._table.exited(slot, time.monotonic())
        self._tell_of_end(f"worker {slot.index}", f"{how} while it was forked", wait)

    # workers: what they tell

    def _read_worker(self, slot: Slot) -> None:
        link = self._links.get(slot.index)
        if link is None:
            return
        for message in link.channel.receive_all():
            if isinstance(message, Spawned):
                self._table.spawned(slot, message.pid)
            elif isinstance(message, Ready) and slot.state is State.BOOTING:
                self._worker_ready(slot)
            elif isinstance(message, BootFailed):
                link.failure = message
            elif message is None:
                self._worker_unreachable(slot, link)

    def _worker_ready(self, slot: Slot) -> None:
        now = time.monotonic()
        self._table.ready(slot, now)
        self._molds.proved()
        logger.info(
            "%-10s %s ready in %.2f s, pid %d",
            f"worker {slot.index}",
            self._plan.devices[slot.index].label,
            now - slot.spawned_at,
            slot.pid,
        )
        self._announce()

    def _worker_unreachable(self, slot: Slot, link: Link) -> None:
        """Account for a channel that ended: so has the process, or nobody can tell it to."""
        self._forget(link.channel)
        if slot.state is State.SPAWNING:
            self._table.unreachable(slot, time.monotonic())
        elif slot.state in HAS_PROCESS and slot.state is not State.KILLING:
            self._kill(slot)

    def _worker_exited(self, slot: Slot, code: int) -> None:
        link = self._links.pop(slot.index)
        self._forget(link.channel)
        when = "while it booted" if slot.ready_at is None else "while it served"
        failure = link.failure
        pid = slot.pid
        wait = self._table.exited(slot, time.monotonic(), certain=failure is not None)
        if failure and failure.traceback:
            logger.error("%s", failure.traceback.rstrip())
        how = failure.message if failure else link.reason + exits.describe(code)
        if self._table.stopping:
            logger.info("%-10s %s", f"worker {slot.index}", "stopped" if code == 0 else how)
            return
        self._tell_of_end(f"worker {slot.index} (pid {pid})", f"{how} {when}", wait, failure)

    def _tell_of_end(
        self, who: str, how: str, wait: float | None, failure: BootFailed | None = None
    ) -> None:
        """Log an end that nobody asked for, and give up where the table has."""
        if self._table.stopping:
            return
        if wait is None:
            then = "giving up"
        else:
            then = f"replacing it in {wait:.1f} s" if wait else "replacing it"
        logger.error("%s: %s; %s", who, how, then)
        if self._table.gave_up:
            message = failure.message if failure else f"no worker became ready: the last one {how}"
            self._give_up(BootError(message, failure.hint if failure else None))

    def _forget(self, channel: Channel) -> None:
        """Close a channel, once or again."""
        if not channel.is_closed:
            self._selector.unregister(channel)
            channel.close()

    # stopping

    def _stop(self) -> None:
        """Let no connection begin, keep no process alive; the table knows how to go on."""
        if not self._table.stopping:
            listeners.refuse_new_connections(self._listener)
            self._table.stop()
            self._molds.stop()

    def _kill_all(self) -> None:
        for slot in self._table.slots:
            if slot.state in HAS_PROCESS and slot.state is not State.KILLING:
                self._kill(slot)

    def _give_up(self, error: ObworkerError) -> None:
        """Stop because of an error that would only come again."""
        self._error = self._error or error
        self._stop()
