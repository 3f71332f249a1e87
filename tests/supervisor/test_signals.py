"""What a loop hears of signals; in processes of their own, for it is for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import select, signal
from obworker.supervisor.signals import OF_MASTER, Signals
{before}
signals = Signals(OF_MASTER)
for number in {sent}:
    signal.raise_signal(number)
assert select.select([signals], [], [], 0)[0]
print(*(signal.Signals(number).name for number in signals.take()))
"""


@pytest.mark.parametrize(
    ("sent", "before", "taken"),
    [
        ("(signal.SIGHUP, signal.SIGTERM)", "", "SIGHUP SIGTERM"),
        ("(signal.SIGUSR1,)", "signal.signal(signal.SIGUSR1, signal.SIG_IGN)", "SIGUSR1"),
        (
            "(signal.SIGTERM,)",
            "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
            "SIGTERM",
        ),
    ],
    ids=["in order", "ignored before", "blocked before"],
)
def test_the_signals_that_came_are_taken(sent: str, before: str, taken: str) -> None:
    assert run(sent, before) == taken.split()


def test_none_is_lost_behind_many() -> None:
    taken = run("(*[signal.SIGCHLD] * 2000, signal.SIGTERM)", "")
    assert (len(taken), taken[-1]) == (2001, "SIGTERM")


FORK = """
import os, select, signal
os.register_at_fork(after_in_child=lambda: {at_once})
from obworker.supervisor.signals import OF_MASTER, Signals
signals = Signals(OF_MASTER)
mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
child = os.fork()
if not child:
    {later}
    os._exit(0)
ended = signal.Signals(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).name
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
print(ended, *(signal.Signals(number).name for number in signals.take()))
"""
END_ITSELF = "os.kill(os.getpid(), signal.SIGTERM)"


@pytest.mark.parametrize(
    ("at_once", "later"), [(END_ITSELF, "pass"), ("None", END_ITSELF)], ids=["at once", "later"]
)
def test_a_signal_to_a_fork_ends_the_fork_and_is_not_taken_here(at_once: str, later: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FORK.format(at_once=at_once, later=later)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ended.stdout.split() == ["SIGTERM", "SIGCHLD"]


def run(sent: str, before: str) -> list[str]:
    program = PROGRAM.format(sent=sent, before=before)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()
