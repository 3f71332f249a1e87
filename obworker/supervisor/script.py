"""Supervises a start.sh: runs it, watches its port, starts it again, stops it with its children.

Theory of operation. The script runs under bash in a session of its own, so its whole tree can be
signalled. While its port does not answer it is booting; it is ready when a TCP connection is
accepted. A script that ends with code 0 has done what it wanted and so has obworker. One that fails
is started again, with backoff; one that fails five times before it was ever ready is given up. When
obworker is told to stop, so is the script: TERM, and KILL when the graceful timeout is over.
"""

from __future__ import annotations

import logging
import random
import selectors
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from obworker.errors import ListenError, LoadError
from obworker.settings import Settings
from obworker.supervisor import exits, linux
from obworker.supervisor.listeners import Address
from obworker.supervisor.policy import BootPolicy, RestartPolicy
from obworker.supervisor.signals import Signals

logger = logging.getLogger("obworker.script")

SCRIPT = "start.sh"
PROBE_INTERVAL = 0.25
PROBE_TIMEOUT = 1.0
QUICK_STOP_TIMEOUT = 1.0


@dataclass
class Script:
    """Keeps the start.sh of `directory` running; `port` is the one it will listen on."""

    directory: Path
    port: int
    environ: dict[str, str]
    settings: Settings
    signals: Signals
    _restarts: RestartPolicy = field(default_factory=lambda: RestartPolicy(random.random))
    _boots: BootPolicy = field(default_factory=BootPolicy)
    _pid: int | None = None
    _group: int | None = None
    _started_at: float = 0.0
    _ready_at: float | None = None
    _start_due: float | None = 0.0
    _kill_due: float | None = None
    _stopping: bool = False
    _code: int = 0

    def run(self) -> int:
        """Run until the script is done or a signal ends it; return the exit code of the script.

        That is 128 plus the signal's number for a script that a signal ended, as in a shell.
        """
        if _answers(self.port):
            raise ListenError(
                f"port {self.port} is served by another program", hint="stop it, or use --port"
            )
        linux.adopt_orphans()
        linux.set_title(f"master {self.directory}")
        others = linux.children()
        with selectors.DefaultSelector() as selector:
            selector.register(self.signals, selectors.EVENT_READ)
            while self._group is not None or self._start_due is not None:
                selector.select(self._patience())
                self._read_signals()
                self._reap()
                self._act(time.monotonic())
        linux.kill_descendants(spare=others)
        return self._code

    def _patience(self) -> float | None:
        if self._pid is not None and self._ready_at is None and not self._stopping:
            return PROBE_INTERVAL
        due = self._kill_due if self._group is not None else self._start_due
        return None if due is None else max(0.0, due - time.monotonic())

    def _read_signals(self) -> None:
        for number in self.signals.take():
            if number is signal.SIGTERM:
                self._stop(self.settings.graceful_timeout)
            elif number in (signal.SIGINT, signal.SIGQUIT):
                self._stop(QUICK_STOP_TIMEOUT)
            elif number is signal.SIGHUP:
                logger.warning(
                    "SIGHUP: ignored, %s cannot be reloaded yet; restart instead", SCRIPT
                )

    def _stop(self, patience: float) -> None:
        self._stopping = True
        self._start_due = None
        if self._group is None:
            return
        logger.info("stopping %s", SCRIPT)
        due = time.monotonic() + patience
        self._kill_due = due if self._kill_due is None else min(due, self._kill_due)
        linux.kill_group(self._group, signal.SIGTERM)

    def _reap(self) -> None:
        while (pid := linux.next_ended()) is not None:
            # Once told to stop, the script's other processes may finish what they are doing.
            if pid == self._pid and not self._stopping:
                linux.kill_rest_of_group(pid)
            code = linux.reap(pid)
            if pid == self._pid:
                self._script_exited(code)
        if self._pid is None and self._group is not None and not linux.group_exists(self._group):
            self._group = self._kill_due = None

    def _act(self, now: float) -> None:
        if self._group is None:
            if self._start_due is not None and now >= self._start_due:
                self._start(now)
        elif self._kill_due is not None and now >= self._kill_due:
            logger.error("%s did not stop in time; killing it", SCRIPT)
            self._kill_due = None
            linux.kill_group(self._group, signal.SIGKILL)
        elif self._pid is not None and self._ready_at is None and not self._stopping:
            self._probe(self._pid, now)

    def _start(self, now: float) -> None:
        try:
            process = subprocess.Popen(
                ["bash", SCRIPT],  # noqa: S607 where bash lies differs between machines
                cwd=self.directory,
                env=self.environ,
                start_new_session=True,
            )
        except OSError as error:
            raise LoadError(f"{SCRIPT}: cannot run bash: {error.strerror}") from error
        self._pid = self._group = process.pid
        self._started_at, self._ready_at = now, None
        process.returncode = 0  # it is reaped here, not by subprocess
        logger.info("%-10s %s, pid %d, port %d", "running", SCRIPT, process.pid, self.port)

    def _probe(self, pid: int, now: float) -> None:
        """Find out whether the script's port answers by now."""
        if _answers(self.port):
            self._ready_at = now
            self._boots.ready()
            logger.info("%-10s ready in %.2f s", SCRIPT, now - self._started_at)
            logger.info("%-10s %s", "serving", Address("localhost", self.port).url)
        elif now >= self._started_at + self.settings.boot_timeout and self._kill_due is None:
            logger.error("port %d does not answer in time; stopping %s", self.port, SCRIPT)
            self._kill_due = now + self.settings.graceful_timeout
            linux.kill_group(pid, signal.SIGTERM)

    def _script_exited(self, code: int) -> None:
        now = time.monotonic()
        ready_for = None if self._ready_at is None else now - self._ready_at
        self._pid = None
        self._code = code if code >= 0 else 128 - code
        how = exits.describe(code)
        if self._stopping or code == 0:
            self._start_due = None
            logger.info("%s %s", SCRIPT, how)
        elif ready_for is None and self._boots.failed(certain=False):
            self._start_due = None
            logger.error("%s %s before port %d answered; giving up", SCRIPT, how, self.port)
        else:
            wait = self._restarts.ended(ready_for=ready_for)
            self._start_due = now + wait
            logger.error("%s %s; starting it again in %.1f s", SCRIPT, how, wait)


def _answers(port: int) -> bool:
    """Tell whether somebody accepts connections on a port of this machine, by IPv4 or IPv6."""
    for host in ("127.0.0.1", "::1"):
        try:
            socket.create_connection((host, port), timeout=PROBE_TIMEOUT).close()
        except OSError:
            continue
        return True
    return False
