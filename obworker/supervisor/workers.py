"""Makes, drains and kills workers for the master, as agenda.py decides.

This module also reads the messages of workers and their rows of the scoreboard, and accounts for
their ends.
"""

from __future__ import annotations

import logging
import selectors
import signal
import time
from collections.abc import Callable

from obworker.errors import DeviceError, ObworkerError
from obworker.supervisor import exits, linux
from obworker.supervisor.agenda import Agenda
from obworker.supervisor.devices import Devices
from obworker.supervisor.ends import Ends
from obworker.supervisor.generations import Generations
from obworker.supervisor.gpus import Device
from obworker.supervisor.links import Link, Links
from obworker.supervisor.messages import (
    Channel,
    Drain,
    Failed,
    Leaving,
    Loaded,
    Message,
    Ready,
    Recycle,
    Serve,
    Spawn,
    Spawned,
)
from obworker.supervisor.molds import Descriptors, order_to_load
from obworker.supervisor.scoreboard import SERVING, Cause, Scoreboard, State
from obworker.supervisor.slots import BEING_KILLED, HAS_PROCESS, Action, Seat
from obworker.supervisor.table import Table

logger = logging.getLogger("obworker.master")


class Workers:
    """Carries out what is due.

    `on_ready` is called whenever a worker is ready, `on_fatal` with an error that ends the start.
    """

    def __init__(
        self,
        table: Table,
        generations: Generations,
        board: Scoreboard,
        descriptors: Descriptors,
        selector: selectors.BaseSelector,
        *,
        on_ready: Callable[[], None],
        on_fatal: Callable[[ObworkerError], None],
    ) -> None:
        self._table = table
        self._generations = generations
        self._board = board
        self._descriptors = descriptors
        self._on_ready = on_ready
        self.ends = Ends(
            table,
            board,
            on_boot_failed=generations.boot_failed,
            on_dropped=generations.fail_reload,
            on_fatal=on_fatal,
        )
        self.devices = Devices(table, generations, board, on_fatal=on_fatal)
        self._agenda = Agenda(table, generations.can_spawn)
        self._links = Links(selector)
        self._carry_out: dict[Action, Callable[[Seat], None]] = {
            Action.SPAWN: self._spawn,
            Action.DRAIN: self._drain,
            Action.DUMP: self._dump,
            Action.ABORT: self._abort,
            Action.KILL: self._kill_late,
            Action.STICK: self._stick,
            Action.GIVE_UP_SPAWN: self._give_up_spawn,
        }

    # called by the master's loop

    def observe(self) -> None:
        """Read the workers' rows of the scoreboard into the table."""
        now = time.monotonic()
        for seat in self._table.seats:
            if seat.state in SERVING:
                row = self._board.seat(seat.slot, seat.number)
                self._table.observe(
                    seat, now, in_flight=row.in_flight, deadline=row.deadline, beat=row.beat
                )

    @property
    def next_deadline(self) -> float | None:
        """The time at which `act` has something to do."""
        return self._agenda.next_deadline

    def act(self, now: float) -> None:
        """Do what is due."""
        self.devices.tend(now)
        for action, seat in self._agenda.due(now):
            self._carry_out[action](seat)

    def publish(self) -> None:
        """Write the state of the table to the scoreboard."""
        self._board.header.slots = len(self._table.slots)
        for seat in self._table.seats:
            row = self._board.seat(seat.slot, seat.number)
            row.state, row.generation, row.pid = seat.state, seat.generation, seat.pid or 0
            row.spawned_at, row.ready_at = seat.spawned_at, seat.ready_at or 0.0
        self.devices.publish()

    def end_connections(self) -> None:
        """Tell workers that drain already to close connections: no other worker will take them."""
        for seat in self._table.seats:
            if seat.state is State.DRAINING:
                self._links.of(seat).channel.send(self._order_to_drain())

    def kill_all(self) -> None:
        """Kill every worker."""
        for seat in self._table.seats:
            if seat.state in HAS_PROCESS - {State.KILLING, State.STUCK}:
                self._kill(seat)

    def in_slot(self, slot: int) -> dict[int, str]:
        """Return the processes of a slot that are not being killed: their names by pid."""
        seats = self._table.slots[slot].within(*HAS_PROCESS - BEING_KILLED)
        return {seat.pid: f"worker {slot}" for seat in seats if seat.pid is not None}

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every worker, but not to its children."""
        for seat in self._table.seats:
            if seat.pid is not None and seat.state in HAS_PROCESS:
                linux.signal_process(seat.pid, number)

    # actions

    def _spawn(self, seat: Seat) -> None:
        self._table.spawn(seat, time.monotonic())
        row = self._board.seat(seat.slot, seat.number)
        row.clear()
        device = self._generations.plan(seat.generation).device(seat.slot)
        if self._table.slots[seat.slot].serving is None:
            self._show_device(seat, device)
        try:
            theirs = self._links.open(seat, device, self._read)
        except OSError as error:
            self.ends.not_made(seat, f"could not be asked for: {error.strerror}")
            return
        if self._generations.is_direct(seat.generation):
            self._execute(seat, theirs)
        else:
            self._generations.molds.order(seat.generation, self._order(seat), theirs)
        theirs.close()

    def _show_device(self, seat: Seat, device: Device) -> None:
        self._board.slot(seat.slot).write_text("device", device.label)

    def _order(self, seat: Seat) -> Spawn:
        plan = self._generations.plan(seat.generation)
        workers = self._generations.size(seat.generation)
        return Spawn(
            slot=seat.slot,
            seat=seat.number,
            environment=plan.environment(seat.slot, workers),
            pools=plan.pools(seat.slot, workers),
            cores=list(plan.placement.of(seat.slot)),
            title=f"worker {seat.slot} g{seat.generation} {plan.device(seat.slot).label}",
        )

    def _execute(self, seat: Seat, theirs: Channel) -> None:
        """Make a direct worker, which imports the code by itself."""
        plan, order = self._generations.plan(seat.generation), self._order(seat)
        try:
            environ = plan.environ | order.environment
            pid = self._descriptors.execute("direct", theirs, environ, plan.certificates)
        except OSError as error:
            self._links.close(seat)
            self.ends.not_made(seat, f"could not be made: {linux.why_no_process(error)}")
            return
        self._table.spawned(seat, pid, loads=True)
        channel = self._links.of(seat).channel
        channel.send(order_to_load(seat.generation, plan))
        channel.send(order)

    def _drain(self, seat: Seat) -> None:
        self._table.drain(seat, time.monotonic())
        self._links.of(seat).channel.send(self._order_to_drain())

    def _order_to_drain(self) -> Drain:
        final = self._table.stopping
        return Drain(empty_queue=final and not self._descriptors.listeners.lent, final=final)

    def _dump(self, seat: Seat) -> None:
        """Have a late worker dump its stacks, before it is killed.

        It is also told to drain, and sent SIGCONT in case it was only stopped. If it replies that
        it drains it is not killed, so what it has accepted is answered all the same.
        """
        reason = self._why_late(seat)
        logger.error("worker %d (pid %s): %s; its stacks follow", seat.slot, seat.pid, reason)
        link = self._links.of(seat)
        link.reason, link.cause = f"{reason}, and ", Cause.LATE
        link.channel.send(Drain(empty_queue=False, final=self._table.stopping))
        self._table.dump(seat, time.monotonic())
        if seat.pid is not None:
            linux.signal_process(seat.pid, linux.DUMP_SIGNAL)
            linux.signal_process(seat.pid, signal.SIGCONT)

    def _why_late(self, seat: Seat) -> str:
        if seat.state is State.BOOTING:
            limit = self._table.timeouts.boot
            return f"took longer than {limit:g} s to boot, see --boot-timeout"
        if seat.state is State.IDLE:
            return "its event loop stands still"
        row = self._board.seat(seat.slot, seat.number)
        return f"is past the deadline of {row.describe_request(time.monotonic())}"

    def _abort(self, seat: Seat) -> None:
        self._table.abort(seat, time.monotonic())
        if seat.pid is not None:
            linux.signal_process(seat.pid, signal.SIGABRT)

    def _kill_late(self, seat: Seat) -> None:
        if seat.state is State.DRAINING:
            row = self._board.seat(seat.slot, seat.number)
            doing = f" {row.describe_request(time.monotonic())}" if row.in_flight else ""
            logger.error("worker %d did not finish%s in time; killing it", seat.slot, doing)
        self._kill(seat)

    def _kill(self, seat: Seat) -> None:
        self._table.kill(seat, time.monotonic())
        if seat.pid is not None:
            linux.kill_group(seat.pid, signal.SIGKILL)

    def _stick(self, seat: Seat) -> None:
        who, how = f"worker {seat.slot} (pid {seat.pid})", exits.UNKILLABLE
        logger.error("%s %s; its slot stays empty until it has", who, how)
        self.ends.tell(who, how, self._table.stick(seat), None)

    def _give_up_spawn(self, seat: Seat) -> None:
        link, why = self._links.of(seat), "ended while it was forked"
        if not link.channel.is_closed and seat.is_late(time.monotonic()):
            why = "was not forked in time"
            logger.error("the mold does not fork; killing it")
            self._generations.molds.kill(seat.generation)
        for message in link.channel.last_words():  # a worker made later is killed by its mold
            if isinstance(message, Spawned):
                linux.kill_group(message.pid, signal.SIGKILL)
        self._links.close(seat)
        self.ends.not_made(seat, link.failure.message if link.failure else why)

    # messages

    def _read(self, seat: Seat) -> None:
        link = self._links.find(seat)
        if link is None:
            return
        for message in link.channel.receive_all():
            if message is None:
                self._unreachable(seat, link)
            else:
                self._hear(seat, link, message)

    def _hear(self, seat: Seat, link: Link, message: Message) -> None:
        if isinstance(message, Spawned):
            self._table.spawned(seat, message.pid)
        elif isinstance(message, Ready) and seat.state is State.BOOTING:
            self._ready(seat)
        elif isinstance(message, Failed):
            link.failure = message
            if message.exit_code == DeviceError.exit_code:
                link.lost_device = message.message
        elif isinstance(message, Loaded):
            self._generations.loaded_directly(seat.generation, message)
        elif isinstance(message, Recycle) and seat.state in SERVING:
            seat.recycle = message.reason
            logger.info("worker %d: %s; replacing it", seat.slot, message.reason)
        elif isinstance(message, Leaving):
            self._hear_why(seat, link, message)

    def _ready(self, seat: Seat) -> None:
        now, link = time.monotonic(), self._links.of(seat)
        committed = self._table.became_ready(seat, now)
        link.channel.send(Serve())
        self._show_device(seat, link.device)
        if committed:
            self._generations.committed()
        logger.info(
            "%-10s %s ready in %.2f s, pid %d",
            f"worker {seat.slot}",
            link.device.label,
            now - seat.spawned_at,
            seat.pid,
        )
        self._on_ready()

    def _hear_why(self, seat: Seat, link: Link, message: Leaving) -> None:
        """Note why a worker leaves; that its GPU is lost counts even if it drains already."""
        if message.device_lost:
            link.lost_device, link.reason = message.reason, f"{message.reason}, and "
        if seat.state in SERVING | {State.DUMPING}:
            self._leaving(seat, link, message)

    def _leaving(self, seat: Seat, link: Link, message: Leaving) -> None:
        now, reason, cause = time.monotonic(), message.reason, Cause.LEFT
        if message.device_lost:
            cause = Cause.DEVICE
        elif seat.state is State.DUMPING:
            reason, cause = f"{link.reason}came back to life", Cause.LATE
        link.reason, link.cause = f"{reason}, and ", cause
        wait = self._table.leaving(seat, now, device_lost=message.device_lost)
        if wait is None:
            then = "replacing it when it has gone"
        else:
            self.ends.note(seat, cause, reason, now)
            then = f"replacing it in {wait:.1f} s" if wait else "replacing it"
        logger.error("worker %d (pid %s): %s; %s", seat.slot, seat.pid, reason, then)

    def _unreachable(self, seat: Seat, link: Link) -> None:
        """Account for a channel that ended: the process has ended, too, or cannot be told to."""
        self._links.hang_up(link)
        if seat.state is State.SPAWNING:
            self._table.unreachable(seat, time.monotonic())
        elif seat.state in HAS_PROCESS - {State.KILLING, State.STUCK}:
            link.hung_up = True
            self._kill(seat)

    # ends

    def exited(self, seat: Seat, code: int) -> None:
        """Account for a worker that was reaped."""
        link = self._links.close(seat)
        for _ in range(self._board.seat(seat.slot, seat.number).waiting):
            self._descriptors.exchange.release()  # the requests that waited in it are gone
        if link.lost_device and self.devices.is_to_blame(link.device, seat):
            link.cause = Cause.DEVICE
            self.devices.failed(link.device, seat, link.lost_device, time.monotonic())
        self.ends.exited(seat, code, link)

    def mold_gone(self, generation: int) -> None:
        """Free the seats whose workers were requested from a mold that has ended."""
        for seat in self._table.seats:
            if seat.state is State.SPAWNING and seat.generation == generation:
                self._links.close(seat)
                self._table.unspawned(seat)
