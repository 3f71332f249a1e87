"""Signals in a process with a loop: handlers do nothing, and the loop reads the numbers.

Python writes the number of every signal that has a handler into the wakeup descriptor
(signal.set_wakeup_fd). It does so in C, so no code of ours runs between two bytecodes of the loop.
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
# It gets a handler, too, as SIG_IGN would outlast an exec, and a start.sh could not trap it
# (bash(1), "Signals ignored upon entry to the shell cannot be trapped").
WITHOUT_EFFECT = (signal.SIGUSR2,)
OF_MASTER = (*HANDLED, *WITHOUT_EFFECT)


class Signals:
    """The signals that have arrived since the last look; a selector can wait for them.

    Making one, in the main thread, takes effect for the life of the process: `numbers` get a
    handler, and are unblocked in case whoever started us has blocked them, which outlasts an exec
    (signal(7)).
    """

    def __init__(self, numbers: Collection[signal.Signals] = ()) -> None:
        # A pipe holds 65,536 numbers, a socket about 280: a loop that is delayed, or was stopped,
        # would lose a SIGTERM behind so many SIGCHLDs.
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _do_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has arrived."""
        return self._reader

    def take(self) -> list[int]:
        """Return the numbers of all signals with a handler that have arrived, in order."""
        try:
            return list(os.read(self._reader, 4096))
        except BlockingIOError:
            return []


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Do nothing; a signal without a handler would not get into the wakeup descriptor."""


# A process that the user's code forks has the handlers and the descriptor at first, so a signal to
# it would seem to be for its parent, such as the SIGTERM by which multiprocessing ends its pools.
# So it gets none before it has reset them.
_blocked = threading.local()


def _block() -> None:
    _blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_MASTER)


def _restore_mask() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.before)


def _reset_in_child() -> None:
    signal.set_wakeup_fd(-1)
    for number in OF_MASTER:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)
    _restore_mask()


os.register_at_fork(before=_block, after_in_parent=_restore_mask, after_in_child=_reset_in_child)


def on_rotation(reopen: Callable[[], None]) -> None:
    """Have SIGUSR1 open the log files again by `reopen`, in a process without a loop."""
    signal.signal(signal.SIGUSR1, lambda _number, _frame: reopen())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])  # see bootstrap.spawn


def restore_defaults() -> None:
    """Reset the signals of a fork of the mold to their defaults, except for a few.

    The terminal's Ctrl-C and hang-up are for the master, and writing to a client that has gone is
    an error, not the end. SIGUSR1 opens the log files again, as in the mold.
    """
    signal.set_wakeup_fd(-1)
    for number in HANDLED:
        if number is not signal.SIGUSR1:
            signal.signal(number, signal.SIG_DFL)
    ignore(signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)


def ignore(*numbers: signal.Signals) -> None:
    """Ignore signals, in this process and in the programs that it executes."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
