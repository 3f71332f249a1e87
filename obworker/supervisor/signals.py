"""Signals in a process with a loop: the handlers do nothing, the loop reads numbers.

Python writes the number of every signal that has a handler into the wakeup descriptor
(signal.set_wakeup_fd), at C level: no handler of ours runs between two bytecodes of the loop.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection
from types import FrameType

HANDLED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD),
    *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGUSR1),
)
# It has a handler, too, and not SIG_IGN: that would pass an exec, and a start.sh could not trap
# it (bash(1), "Signals ignored upon entry to the shell cannot be trapped").
WITHOUT_EFFECT = (signal.SIGUSR2,)
OF_MASTER = (*HANDLED, *WITHOUT_EFFECT)


class Signals:
    """The signals that came since the last look; a selector can wait for it.

    It takes over with its making, in the main thread and for the life of the process: `numbers` get
    a handler, and are let through where whoever started us has blocked them, for that passes an
    exec (signal(7)).
    """

    def __init__(self, numbers: Collection[signal.Signals] = ()) -> None:
        # A pipe holds 65,536 of them, a socket some 280: a loop that is held up, or was stopped,
        # would lose a TERM behind so many ends of children.
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _do_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a signal came."""
        return self._reader

    def take(self) -> list[int]:
        """Return the numbers of those that came, in order, also of others with a handler."""
        try:
            return list(os.read(self._reader, 4096))
        except BlockingIOError:
            return []


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Exist: a signal that is ignored or has its default action wakes nobody."""


# A fork of the user's has the handlers and the descriptor until it lets go of them: what is sent to
# it would be taken for sent to the process that it is from, such as the SIGTERM by which
# multiprocessing ends its pools. Until then it gets none.
_blocked = threading.local()


def _hold() -> None:
    _blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_MASTER)


def _go_on() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.before)


def _let_go() -> None:
    signal.set_wakeup_fd(-1)
    for number in OF_MASTER:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)
    _go_on()


os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_let_go)


def on_rotation(reopen: Callable[[], None]) -> None:
    """Have SIGUSR1 open the log files again, in a process without a loop."""
    signal.signal(signal.SIGUSR1, lambda _number, _frame: reopen())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])  # see bootstrap.spawn


def restore_defaults() -> None:
    """Give a fork of the mold the signals that a program starts with, but for a few.

    A terminal's Ctrl-C and hang-up are the master's business, and a write to a client that has
    gone is an error, not the end. SIGUSR1 opens the log files again, as in the mold.
    """
    signal.set_wakeup_fd(-1)
    for number in HANDLED:
        if number is not signal.SIGUSR1:
            signal.signal(number, signal.SIG_DFL)
    ignore(signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)


def ignore(*numbers: signal.Signals) -> None:
    """Let signals have no effect on this process, and on the programs that it runs."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
