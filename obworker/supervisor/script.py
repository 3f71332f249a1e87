"""Supervises a start.sh: runs it, watches its port, starts it again, stops it with its children.

Theory of operation. The script runs under bash in a session of its own, so that all its processes
can be signalled. It is booting until its port accepts a TCP connection, then it is ready. If it
exits with code 0 its work is done, and obworker exits, too. If it fails it is started again, with
backoff; after five failures before it was ever ready, obworker gives up.

To stop it, for good or to start it anew, its session gets SIGTERM, and SIGKILL after the graceful
timeout; a run has ended when the last process of its session has. The script owns its port, so two
cannot run at once: a reload has a gap.

To the rest of obworker it is a service with one slot (scoreboard.py).
"""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from obworker import log, log_files
from obworker.errors import BootError, LoadError, ObworkerError, ScriptError
from obworker.settings import Settings
from obworker.supervisor import exits, linux, listeners
from obworker.supervisor.alarm import earliest
from obworker.supervisor.commands import nobody
from obworker.supervisor.listeners import Address
from obworker.supervisor.loop import Loop
from obworker.supervisor.outside import Surroundings
from obworker.supervisor.policy import BootPolicy, RestartPolicy
from obworker.supervisor.scoreboard import Phase, State
from obworker.supervisor.signals import Signals
from obworker.supervisor.systemd import without_systemd

logger = logging.getLogger("obworker.script")

SCRIPT = "start.sh"
PROBE_INTERVAL = 0.25
QUICK_STOP_TIMEOUT = 1.0
KILL_TIMEOUT = 5.0


@dataclass
class Run:
    """One run of the script, which lasts as long as its session has processes."""

    pid: int
    started_at: float
    ready_at: float | None = None
    has_ended: bool = False
    kill_due: float | None = None
    was_killed: bool = False
    is_too_late: bool = False

    @property
    def is_booting(self) -> bool:
        """Whether its port has not answered yet."""
        return self.ready_at is None and not self.has_ended and self.kill_due is None

    @property
    def state(self) -> State:
        """The state that a worker would have in its place."""
        if self.has_ended or self.kill_due is not None:
            return State.DRAINING
        return State.BOOTING if self.ready_at is None else State.IDLE


class Script:
    """Keeps the start.sh of `directory` running, which is to listen on `port`.

    `reread` reads the settings and the environment again.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        settings: Settings,
        reread: Callable[[], tuple[Settings, Mapping[str, str]]],
        signals: Signals,
        surroundings: Surroundings,
    ) -> None:
        self._directory = directory
        self._port = port
        self._settings = settings
        self._reread = reread
        self._environ = surroundings.environ
        self._loop = Loop(self, settings, surroundings, signals)
        self._board = self._loop.board
        self._outside = self._loop.outside
        self._restarts = RestartPolicy(random.random)
        self._boots = BootPolicy()
        self._run: Run | None = None
        self._start_due: float | None = None
        self._stopping = False
        self._reload: Callable[[str], None] | None = None
        self._generation = 1
        self._code = 0
        self._error: ObworkerError | None = None

    def run(self) -> int:
        """Run until the script is done or obworker is told to stop; return the script's exit code.

        If a signal has ended the script, that is 128 plus its number, as in a shell.

        Raises:
            LoadError: it cannot be run.
            ScriptError: it failed again and again before its port ever answered.
        """
        address = Address("localhost", self._port)
        self._loop.run(str(self._directory), str(address))
        if self._error is not None:
            raise self._error
        return self._code

    # the loop

    def begin(self, now: float) -> None:
        """Have the script started."""
        self._start_due = now

    @property
    def is_over(self) -> bool:
        """Whether it neither runs nor is to be started."""
        return self._run is None and self._start_due is None

    @property
    def next_deadline(self) -> float | None:
        """The time at which `act` has something to do."""
        run = self._run
        if run is None:
            return self._start_due
        probe_due = time.monotonic() + PROBE_INTERVAL if run.is_booting else None
        return earliest(run.kill_due, probe_due)

    def reap(self) -> None:
        """Reap the script, and all that it left."""
        while (pid := linux.next_ended()) is not None:
            run = self._run
            is_script = run is not None and pid == run.pid
            # After an order to stop, the script's other processes may finish their work.
            if run is not None and is_script and run.kill_due is None:
                linux.kill_session(pid, signal.SIGKILL)
            code = linux.reap(pid)
            if run is not None and is_script:
                self._script_ended(run, code)
            else:
                self._outside.admin.exited(pid, code, time.monotonic())
        if self._run is not None and self._run.has_ended and not linux.groups_of({self._run.pid}):
            self._run = None

    def act(self, now: float, *, may_judge: bool) -> None:
        """Start, probe or kill the script."""
        run = self._run
        if not may_judge:
            return
        if run is None:
            if self._start_due is not None and now >= self._start_due:
                self._start(now)
        elif run.kill_due is not None and now >= run.kill_due:
            self._kill_or_forget(run, now)
        elif run.is_booting:
            self._probe(run, now)

    def _kill_or_forget(self, run: Run, now: float) -> None:
        """Kill a run that did not stop in time; if even that does not end it, wait no longer."""
        if run.was_killed:
            logger.error("some processes of %s cannot be ended; going on without", SCRIPT)
            self._run = None
            return
        logger.error("%s did not stop in time; killing it", SCRIPT)
        run.was_killed, run.kill_due = True, now + KILL_TIMEOUT
        linux.kill_session(run.pid, signal.SIGKILL)

    def publish(self) -> None:
        """Write its state to the scoreboard, as that of one worker."""
        header, row, run = self._board.header, self._board.seat(0, 0), self._run
        header.phase, header.generation = self._phase, self._generation
        header.slots = header.wanted = header.min_ready = 1
        waits = State.BACKOFF if self._start_due is not None else State.EMPTY
        row.state = waits if run is None else run.state
        row.generation = self._generation
        row.pid = 0 if run is None else run.pid
        row.spawned_at = 0.0 if run is None else run.started_at
        row.ready_at = 0.0 if run is None else run.ready_at or 0.0

    @property
    def _phase(self) -> Phase:
        if self._stopping:
            return Phase.STOPPING
        if not self._boots.was_ever_ready:
            return Phase.STARTING
        return Phase.SERVING if self._reload is None else Phase.RELOADING

    # signals and commands

    @property
    def reactions(self) -> dict[int, Callable[[], None]]:
        """What to do for a signal."""
        return {
            signal.SIGTERM: self.terminate,
            signal.SIGINT: self._interrupt,
            signal.SIGQUIT: self._interrupt,
            signal.SIGHUP: self.reload,
            signal.SIGUSR1: self._reopen_logs,
        }

    def _reopen_logs(self) -> None:
        log_files.reopen_files(self._settings)
        self._outside.admin.follow_log()

    def terminate(self) -> None:
        """Stop gracefully."""
        self._stop(self._settings.graceful_timeout)

    def _interrupt(self) -> None:
        self._stop(QUICK_STOP_TIMEOUT)

    def _stop(self, patience: float) -> None:
        self._stopping = True
        self._start_due = None
        self._answer_reload("obworker was told to stop")
        if self._run is not None:
            logger.info("stopping %s", SCRIPT)
            self._end(self._run, patience)

    def _end(self, run: Run, patience: float) -> None:
        """Ask a run to end; it is killed if it has not in `patience` seconds."""
        due = time.monotonic() + patience
        run.kill_due = due if run.kill_due is None else min(due, run.kill_due)
        linux.kill_session(run.pid, signal.SIGTERM)

    def reload(self, answer: Callable[[str], None] = nobody) -> None:
        """Stop the script and start it again; `answer` is told how that went."""
        if self._stopping:
            answer("obworker is stopping")
            return
        try:
            self._read_settings()
        except (ObworkerError, OSError) as error:
            logger.error("reload failed: %s; %s runs on", error, SCRIPT)
            self._board.header.write_text("reload_failure", str(error))
            answer(str(error))
            return
        logger.info("reloading: starting %s again", SCRIPT)
        self._answer_reload("a newer reload took its place")
        self._reload = answer
        self._generation += 1
        self._start_due = time.monotonic()
        if self._run is not None:
            self._end(self._run, self._settings.graceful_timeout)

    def _read_settings(self) -> None:
        """Adopt what the configuration file, environment and .env say now, except for the port."""
        settings, environ = self._reread()
        log_files.open_files(settings)
        self._outside.admin.follow_log()
        log.configure(settings.log_level)
        self._settings, self._environ = settings, environ

    def _answer_reload(self, failure: str) -> None:
        """Report that a pending reload is over: why it failed, empty if it did not."""
        answer, self._reload = self._reload, None
        if answer is None:
            return
        self._board.header.write_text("reload_failure", failure)
        self._board.header.reloads += not failure
        answer(failure)

    def resize(self, _size: int) -> str:
        """Refuse: a script has no workers."""
        return f"a {SCRIPT} cannot be scaled"

    def show_stacks(self, _slot: int) -> list[str]:
        """Show none: the signal would end a program that does not handle it."""
        return []

    # the script

    def _start(self, now: float) -> None:
        try:
            process = subprocess.Popen(
                ["bash", SCRIPT],  # noqa: S607 the path of bash differs between machines
                cwd=self._directory,
                env=without_systemd(self._environ) | {"PORT": str(self._port)},
                start_new_session=True,
            )
        except OSError as error:
            why = f"{error.filename or 'bash'}: {linux.why_no_process(error)}"
            self._cannot_start(f"cannot be run: {why}", now)
            return
        self._run = Run(process.pid, now)
        self._start_due = None
        process.returncode = 0  # it is reaped here, not by subprocess
        logger.info("%-10s %s, pid %d, port %d", "running", SCRIPT, process.pid, self._port)

    def _cannot_start(self, why: str, now: float) -> None:
        """Give up if it was never ready; else try again, as what is missing may come back."""
        if self._boots.was_ever_ready:
            self._answer_reload(f"{SCRIPT} {why}")
            self._try_again(why, now, ready_at=None)
        else:
            self._give_up(LoadError(f"{SCRIPT} {why}"))

    def _give_up(self, error: ObworkerError) -> None:
        """End with an error; no reload starts anything again."""
        self._error, self._stopping, self._start_due = error, True, None

    def _try_again(self, how: str, now: float, *, ready_at: float | None) -> None:
        wait = self._restarts.ended(now, ready_at=ready_at)
        self._start_due = now + wait
        logger.error("%s %s; starting it again in %.1f s", SCRIPT, how, wait)

    def _probe(self, run: Run, now: float) -> None:
        """Check whether the script's port answers."""
        if listeners.is_served(self._port):
            run.ready_at = now
            self._boots.ready()
            self.publish()  # whoever reads the line below may ask /readyz at once
            self._answer_reload("")
            logger.info("%-10s ready in %.2f s", SCRIPT, now - run.started_at)
            logger.info("%-10s %s", "serving", Address("localhost", self._port).url)
            if self._outside.address is not None:
                logger.info("%-10s %s", "admin", self._outside.address.shown)
        elif now >= run.started_at + self._settings.boot_timeout:
            logger.error("port %d does not answer in time; stopping %s", self._port, SCRIPT)
            run.is_too_late = True
            self._end(run, self._settings.graceful_timeout)

    def _script_ended(self, run: Run, code: int) -> None:
        now = time.monotonic()
        run.has_ended = True
        if run.kill_due is None:  # by itself: the rest of its session has been killed
            run.was_killed, run.kill_due = True, now + KILL_TIMEOUT
        self._code = _exit_code(code, is_too_late=run.is_too_late)
        how = exits.describe(code)
        if self._stopping or self._start_due is not None:
            logger.info("%s %s", SCRIPT, how)
            return
        unanswered = self._why_unanswered(run, how)
        self._answer_reload(unanswered)
        if self._code == 0:
            self._stopping = True
            logger.info("%s %s: stopping, with all that it left running", SCRIPT, how)
            return
        cause = exits.cause(code, was_ready=run.ready_at is not None)
        self._board.slot(0).note_exit(cause, how, now)
        if run.ready_at is None and self._boots.failed(certain=False):
            self._give_up(ScriptError(f"giving up: {unanswered}", exit_code=self._code))
            return
        self._try_again(how, now, ready_at=run.ready_at)

    def _why_unanswered(self, run: Run, how: str) -> str:
        if run.is_too_late:
            within = self._settings.boot_timeout
            return f"port {self._port} did not answer within {within:g} s, see --boot-timeout"
        return f"{SCRIPT} {how} before port {self._port} answered"


def _exit_code(code: int, *, is_too_late: bool) -> int:
    """Return the exit code of obworker; the script's means nothing if it was ended as too late."""
    if is_too_late:
        return BootError.exit_code
    return 128 - code if code < 0 else code
