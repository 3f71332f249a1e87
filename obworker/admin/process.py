"""The admin process: answers probes while every worker is busy, and buries them after the master.

It has the scoreboard, its own listener and one end of a socket pair to the master. On that come the
files of the log when they are others, and in the end a byte, which means that obworker has stopped
and nothing is left to do; the end of the file without one means that the master is gone, however it
died, and the undertaker has work.

Signals are not for it: the terminal's are the master's business, and a TERM that went to every
process of the service must not take away the answer "stopping". So it ignores those that mean
something to the master, and only the master, or KILL, is to end it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial

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

# A probe is one short request without a body. timeout=0: nothing is overdue, for nothing hangs.
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

# What else the master knows does nothing by itself to one that leads a session without a terminal.
IGNORED = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2),
)


def main(scoreboard: int, listener: int, channel: int, log_level: str) -> None:
    """Run the admin process; the numbers are descriptors, -1 for no listener."""
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
            _serve(Admin(board), socket.socket(fileno=listener), master)
        while not _is_over(master):
            pass
        if not master.recv(1):
            bury(board)


def _start(name: str, run: Callable[[], object]) -> None:
    """Start a thread; without room for it end, to be started again when there may be some."""
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        logger.error(linux.NO_THREAD)
        linux.leave(1)


def _is_over(master: socket.socket) -> bool:
    """Do what the master says; return whether there is only its last word, or its end, to read."""
    if master.recv(1, socket.MSG_PEEK) != LOG:
        return True
    _, files, _, _ = socket.recv_fds(master, 1, len(OUTPUTS))
    for file, output in zip(files, OUTPUTS, strict=False):
        os.dup2(file, output)
        os.close(file)
    return False


def _serve(application: Admin, listener: socket.socket, master: socket.socket) -> None:
    """Answer until the master has its last word to say, or is gone.

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
