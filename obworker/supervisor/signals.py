"""Signals of the master: the handlers do nothing, the loop reads numbers.

Python writes the number of every signal that has a handler into the wakeup descriptor
(signal.set_wakeup_fd), at C level: no handler of ours runs between two bytecodes of the loop.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable
from types import FrameType

HANDLED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD),
    *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGUSR1),
)
# It has a handler, too, and not SIG_IGN: that would pass an exec, and a start.sh could not trap
# it (bash(1), "Signals ignored upon entry to the shell cannot be trapped").
WITHOUT_EFFECT = (signal.SIGUSR2,)


class Signals:
    """The signals that came since the last look; a selector can wait for it."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def install(self) -> None:
        """Take over; before this, a signal has the effect it has on any Python program."""
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in HANDLED + WITHOUT_EFFECT:
            signal.signal(number, _do_nothing)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a signal came."""
        return self._reader.fileno()

    def take(self) -> list[signal.Signals]:
        """Return the signals that came, in order."""
        with contextlib.suppress(BlockingIOError):
            return [signal.Signals(number) for number in self._reader.recv(4096)]
        return []


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Exist: a signal that is ignored or has its default action wakes nobody."""


def on_rotation(reopen: Callable[[], None]) -> None:
    """Have SIGUSR1 open the log files again, in a process without a loop."""
    signal.signal(signal.SIGUSR1, lambda _number, _frame: reopen())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])  # see Descriptors.execute


def open_wakeup(*numbers: signal.Signals) -> socket.socket:
    """Return a socket that becomes readable with every signal that has a handler in Python.

    `numbers` get one that does nothing. What is read are the numbers of signals, a byte each. For
    the main thread only; it stays open for the life of the process.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _do_nothing)
    return reader


def restore_defaults() -> None:
    """Give a fork of the mold the signals that a program starts with, but for a few.

    A terminal's Ctrl-C and hang-up are the master's business, and a write to a client that has
    gone is an error, not the end. SIGUSR1 opens the log files again, as in the mold.
    """
    signal.set_wakeup_fd(-1)
    for number in HANDLED:
        if number is not signal.SIGUSR1:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)


def ignore(*numbers: signal.Signals) -> None:
    """Let signals have no effect on this process, and on the programs that it runs."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
