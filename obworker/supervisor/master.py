"""The master process: keeps all others running, and never runs a line of the user's code.

Theory of operation. loop.py turns the loop. Workers write their state to shared memory, which wakes
nobody (alarm.py), so each turn looks there, after it has read messages and reaped children: in this
order, as a worker's Spawned always comes before its end.

agenda.py decides what to do about a slot, generations.py what to do about a generation; workers.py
and molds.py carry it out.
"""

from __future__ import annotations

import logging
import random
import signal
import time
from collections.abc import Callable

from obworker import log, log_files
from obworker.errors import ObworkerError
from obworker.http.exchange import PLACES_PER_WORKER, Exchange
from obworker.supervisor import exits, linux
from obworker.supervisor.alarm import earliest
from obworker.supervisor.commands import nobody
from obworker.supervisor.generations import Generations
from obworker.supervisor.listeners import Listeners
from obworker.supervisor.loop import Loop
from obworker.supervisor.messages import Channel, Loaded
from obworker.supervisor.molds import Descriptors
from obworker.supervisor.outside import Surroundings
from obworker.supervisor.plan import Plan
from obworker.supervisor.rollout import Strategy
from obworker.supervisor.scaling import Scaling
from obworker.supervisor.scoreboard import MAX_SLOTS, Phase
from obworker.supervisor.signals import Signals
from obworker.supervisor.start_report import StartReport
from obworker.supervisor.table import Table
from obworker.supervisor.workers import Workers

logger = logging.getLogger("obworker.master")


class Master:
    """Keeps a worker in every slot until it is told to stop."""

    def __init__(
        self,
        plan: Plan,
        replan: Callable[[], Plan],
        listeners: Listeners,
        signals: Signals,
        surroundings: Surroundings,
    ) -> None:
        self._plan = plan
        self._first_settings = plan.settings
        self._replan = replan
        self._listeners = listeners
        self._loop = Loop(self, plan.settings, surroundings, signals)
        self._board, self._outside = self._loop.board, self._loop.outside
        self._table = Table(
            plan.workers,
            plan.timeouts,
            random.random,
            Strategy(plan.settings.reload_strategy),
        )
        self._scaling = Scaling(self._table)
        self._report = StartReport(listeners, self._outside.address)
        self._exchange = Exchange.create(self._places)
        descriptors = Descriptors(listeners, self._board.descriptor, self._exchange)
        self._generations = Generations(
            plan,
            self._table,
            descriptors,
            self._loop.selector,
            on_report=self._tell_what_was_found,
            on_fatal=self._give_up,
            on_reloaded=self._reloaded,
        )
        self._molds = self._generations.molds
        self._workers = Workers(
            self._table,
            self._generations,
            self._board,
            descriptors,
            self._loop.selector,
            on_ready=self._report.serves,
            on_fatal=self._give_up,
        )
        self._error: ObworkerError | None = None

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            LoadError: the user's code cannot be imported (at the start only).
            BootError: no worker ever became ready.
            DeviceError: nor could one, as every GPU is in quarantine.
        """
        linux.raise_descriptor_limit()
        self._loop.run(self._plan.label, str(self._listeners), on_over=self._close)
        if self._error is not None:
            raise self._error

    def _close(self) -> None:
        self._listeners.close()
        self._exchange.close()

    # the loop

    def begin(self, now: float) -> None:
        """Load the first generation."""
        self._generations.start(now)

    @property
    def is_over(self) -> bool:
        """Whether all workers and molds have ended, and none will come."""
        return self._table.stopping and self._table.is_over and self._molds.is_gone

    @property
    def next_deadline(self) -> float | None:
        """The time at which `act` has something to do."""
        return earliest(self._workers.next_deadline, self._generations.next_deadline)

    def reap(self) -> None:
        """Reap workers, molds, the admin process and orphans."""
        self._workers.ends.count_oom_kills()
        while (pid := linux.next_ended()) is not None:
            self._read_channels()
            seat = self._table.of_pid(pid)
            if seat is not None:
                linux.kill_rest_of_session(pid)
                self._workers.exited(seat, linux.reap(pid))
            else:
                self._other_exited(pid, linux.reap(pid))

    def _other_exited(self, pid: int, code: int) -> None:
        now = time.monotonic()
        mold = self._molds.exited(pid)
        if mold is not None:
            was_killed = mold.dismissed or bool(mold.reason)
            oom = not was_killed and self._workers.ends.was_killed_for_memory(code)
            self._generations.mold_gone(mold, exits.describe(code, oom=oom), now)
            self._workers.mold_gone(mold.generation)
        elif not self._outside.admin.exited(pid, code, now):
            logger.debug("reaped an orphan, pid %d", pid)

    def _read_channels(self) -> None:
        """Read every message that has come, also the last ones of processes that have ended."""
        for key in list(self._loop.selector.get_map().values()):
            if isinstance(key.fileobj, Channel):
                key.data()

    def act(self, now: float, *, may_judge: bool) -> None:
        """Look at the workers, and do what is due."""
        self._workers.observe()
        self._follow_rollout()
        if may_judge:
            self._generations.tend(now)
            self._workers.act(now)
        self._exchange.resize(self._places)
        self._workers.publish()

    def publish(self) -> None:
        """Write how the service is to the scoreboard."""
        header = self._board.header
        header.generation, header.phase = self._table.rollout.current, self._phase
        for index, pid in enumerate(self._molds.pids):
            header.mold_pids[index] = pid
        header.wanted = self._table.wanted
        header.queue_limit, queued = self._places, self._exchange.taken()
        header.queued = -1 if queued is None else queued
        header.min_ready = min(self._plan.settings.min_ready, max(1, self._table.wanted))

    @property
    def _places(self) -> int:
        """How many requests may wait; with no worker at all, as many as for one."""
        limit = self._plan.settings.max_queue
        return PLACES_PER_WORKER * max(1, self._table.wanted) if limit is None else limit

    @property
    def _phase(self) -> Phase:
        if self._table.stopping:
            return Phase.STOPPING
        if not self._report.is_over:
            return Phase.STARTING
        return Phase.SERVING if self._generations.reloading is None else Phase.RELOADING

    def _tell_what_was_found(self, loaded: Loaded, plan: Plan) -> None:
        self._report.found(loaded, plan, self._table.wanted)

    def _tell_shares(self) -> None:
        self._report.shares(self._plan, self._table.wanted)

    # signals

    @property
    def reactions(self) -> dict[int, Callable[[], object]]:
        """What to do for a signal."""
        return {
            signal.SIGTERM: self.terminate,
            signal.SIGINT: self._interrupt,
            signal.SIGQUIT: self._interrupt,
            signal.SIGHUP: self.reload,
            signal.SIGTTIN: lambda: self._scale_by(1),
            signal.SIGTTOU: lambda: self._scale_by(-1),
            signal.SIGWINCH: self._pause,
            signal.SIGUSR1: self._reopen_logs,
        }

    def terminate(self) -> None:
        """Stop gracefully."""
        logger.info("stopping: finishing the requests in progress")
        self._stop()

    def _interrupt(self) -> None:
        logger.info("stopping at once")
        self._stop()
        self._workers.kill_all()

    def reload(self, answer: Callable[[str], None] = nobody) -> None:
        """Load code, environment and settings anew; see `Reload` for `answer`."""
        if self._table.stopping:
            answer("obworker is stopping")
            return
        logger.info("reloading: loading the code anew")
        try:
            plan = self._replan()
            log_files.try_files(plan.settings)
        except (ObworkerError, OSError) as error:
            current = self._table.rollout.current
            logger.error("reload failed: %s; generation %d serves on", error, current)
            self._reloaded(str(error))
            answer(str(error))
            return
        if fixed := plan.needs_restart(self._first_settings):
            logger.warning("only a restart changes %s", ", ".join(fixed))
        self._follow_rollout()  # an earlier reload may have taken effect in this turn
        self._scaling.reload(plan.workers if plan.workers != self._plan.workers else None)
        self._workers.devices.give_back_all()
        self._roll_out_by(plan)
        self._generations.reload(plan, time.monotonic(), answer)

    def _roll_out_by(self, plan: Plan) -> None:
        self._table.timeouts = plan.timeouts
        self._table.rollout.strategy = Strategy(plan.settings.reload_strategy)

    def _follow_rollout(self) -> None:
        """Apply the settings of the current generation; those of a reload wait for its code."""
        plan = self._generations.plan(self._table.rollout.current)
        if plan is self._plan:
            return
        self._plan = plan
        self._scaling.reloaded()
        log_files.reopen_files(plan.settings)
        log.configure(plan.settings.log_level)
        self._outside.admin.follow_log()
        self._tell_shares()

    def _reopen_logs(self) -> None:
        log_files.reopen_files(self._plan.settings)
        self._outside.admin.follow_log()
        self._molds.signal_all(signal.SIGUSR1)
        self._workers.signal_all(signal.SIGUSR1)

    def _reloaded(self, failure: str) -> None:
        """Publish how a reload ended, before its caller is answered."""
        if self._generations.reloading is None:
            self._roll_out_by(self._generations.plan(self._table.rollout.current))
        self.publish()
        header = self._board.header
        header.write_text("reload_failure", failure)
        header.reloads += not failure

    def resize(self, size: int) -> str:
        """Set how many workers are wanted; return why that is impossible, else an empty text."""
        if self._table.stopping:
            return "obworker is stopping"
        if not 1 <= size <= MAX_SLOTS:
            return f"{size} is not a number of workers from 1 to {MAX_SLOTS}"
        if self._workers.devices.forbid(size):
            return f"with {size} nobody would serve: every GPU that is left is in quarantine"
        logger.info("%-10s from %d to %d workers", "scaling", self._table.wanted, size)
        self._scaling.scale(size)
        self._tell_shares()
        return ""

    def _scale_by(self, step: int) -> None:
        failure = self.resize(self._table.wanted + step)
        if failure:
            logger.warning("%-10s %s", "scaling", failure)

    def show_stacks(self, slot: int) -> list[str]:
        """Have the processes of a slot, and running imports, dump their stacks; name them."""
        if not 0 <= slot < len(self._table.slots):
            return []
        shown = self._workers.in_slot(slot) | self._molds.importing
        for pid in shown:
            linux.signal_process(pid, linux.DUMP_SIGNAL)
        return [f"{who} (pid {pid})" for pid, who in shown.items()]

    def _pause(self) -> None:
        """Stop all workers but keep the port open: connections wait in the kernel."""
        if linux.has_terminal():
            return  # somebody resized the window
        logger.info("SIGWINCH: letting the workers go; SIGHUP brings them back, SIGTTIN one")
        self._scaling.pause()

    # stopping

    def _stop(self) -> None:
        """Refuse new connections and fill no slot any more; agenda.py says how to empty them."""
        if not self._table.stopping:
            self._listeners.refuse_new_connections()
            self._table.stop()
            self._generations.stop()
            self._workers.end_connections()

    def _give_up(self, error: ObworkerError) -> None:
        """Stop because of an error that would only come again."""
        self._error = self._error or error
        self._stop()
