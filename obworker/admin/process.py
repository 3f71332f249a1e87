"""The admin process: answers probes while every worker is busy, and cleans up after the master.

It has the scoreboard, its own listener and one end of a socket pair to the master. The master sends
the log files through it when they change, and at the end a byte, which means that obworker has
stopped and nothing is left to do. End of file without that byte means that the master is gone,
however it died, and undertaker.py has work to do.

Signals are not meant for it: those of the terminal are for the master, and a SIGTERM to every
process of the service must not take away the answer "stopping". So it ignores the signals that the
master acts on, and only the master, or SIGKILL, ends it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from obworker import log
from obworker.admin import nvml
from obworker.admin.application import Admin, takes_time
from obworker.admin.undertaker import bury
from obworker.http.reactor import READ, Turn
from obworker.http.server import Server
from obworker.settings import Settings
from obworker.supervisor import linux, signals
from obworker.supervisor.admins import BACKLOG, LOG, OUTPUTS
from obworker.supervisor.scoreboard import Scoreboard

logger = logging.getLogger("obworker.admin")

# A probe is one short request without a body. timeout=0: no request is overdue, as none hangs.
SETTINGS = Settings(
    access_log=False,
    backlog=BACKLOG,
    threads=1,
    timeout=0,
    keep_alive=10,
    header_timeout=5,
    body_timeout=5,
    limit_request_line=2048,
    limit_request_fields=50,
    limit_request_body=1024,
)

# The master's other signals have no effect by default on a session leader without a terminal.
IGNORED = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2),
)


def main(scoreboard: int, listener: int, channel: int, log_level: str, metrics: str) -> None:
    """Run the admin process; the numbers are descriptors, -1 for no listener.

    `metrics` is the directory of predictor.py's metrics, or empty.
    """
    linux.set_title("admin")
    linux.show_stacks_on_demand()
    signals.ignore(*IGNORED)
    log.configure(log_level)
    for descriptor in {scoreboard, listener, channel} - {-1}:
        os.set_inheritable(descriptor, False)
    board = Scoreboard(scoreboard)
    _start("nvml", partial(nvml.watch, board))
    with socket.socket(fileno=channel) as master:
        if listener != -1:
            application = Admin(board, Path(metrics) if metrics else None)
            _serve(application, socket.socket(fileno=listener), master)
        while not _is_over(master):
            pass
        if not master.recv(1):
            bury(board)


def _start(name: str, run: Callable[[], object]) -> None:
    """Start a thread; if that is impossible exit, so that the master tries again later."""
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        logger.error(linux.NO_THREAD)
        linux.leave(1)


def _is_over(master: socket.socket) -> bool:
    """Return whether the master's last byte or end of file is next; else take its log files."""
    if master.recv(1, socket.MSG_PEEK) != LOG:
        return True
    _, files, _, _ = socket.recv_fds(master, 1, len(OUTPUTS))
    for file, output in zip(files, OUTPUTS, strict=False):
        os.dup2(file, output)
        os.close(file)
    return False


def _serve(application: Admin, listener: socket.socket, master: socket.socket) -> None:
    """Answer until the master sends its last byte, or is gone.

    What takes time is done on another thread: neither a probe nor the undertaker waits for it.
    """
    turn = Turn(steers=True)
    server = Server(
        application,
        [listener],
        SETTINGS,
        inline=False,
        must_queue=takes_time,
    )
    server.reactor.watch(master.fileno(), READ, lambda _: turn.end() if _is_over(master) else None)
    server.start()
    _start("executor", server.executors.run_here)
    server.executors.steer(turn)
