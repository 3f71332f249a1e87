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


def run(sent: str, before: str) -> list[str]:
    program = PROGRAM.format(sent=sent, before=before)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()
