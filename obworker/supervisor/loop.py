"""The life of a master of either kind: it begins, turns its loop, and ends after all its children.

Theory of operation. A master has one thread with one loop. The loop waits for signals, messages, or
the nearest deadline, but at most a second. Then, in this order, it

1. reads the signals and messages that have come,
2. reaps children that have ended,
3. does what is due,
4. writes its state to the scoreboard,
5. tells the outside (outside.py).

What is kept running is a `Service`: the workers of a predictor.py (master.py) or a start.sh
(script.py).
"""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from obworker.settings import Settings
from obworker.supervisor import linux
from obworker.supervisor.alarm import TICK, Alarm
from obworker.supervisor.commands import Commanded, Commands
from obworker.supervisor.outside import Outside, Surroundings
from obworker.supervisor.scoreboard import Scoreboard
from obworker.supervisor.signals import Signals

logger = logging.getLogger("obworker.master")


class Service(Commanded, Protocol):
    """What a loop keeps running."""

    @property
    def reactions(self) -> Mapping[int, Callable[[], object]]:
        """What to do for a signal, by its number."""

    @property
    def is_over(self) -> bool:
        """Whether nothing runs any more, or ever will."""

    @property
    def next_deadline(self) -> float | None:
        """The time at which `act` has something to do even if nothing happens."""

    def begin(self, now: float) -> None:
        """Start what is to run."""

    def reap(self) -> None:
        """Reap all children that have ended."""

    def act(self, now: float, *, may_judge: bool) -> None:
        """Do what is due; unless `may_judge`, nobody is to be taken for late (alarm.py)."""

    def publish(self) -> None:
        """Write its state to the scoreboard."""


class Loop:
    """The loop of a master, with its selector, its scoreboard and its line to the outside."""

    def __init__(
        self, service: Service, settings: Settings, surroundings: Surroundings, signals: Signals
    ) -> None:
        self.selector = selectors.DefaultSelector()
        self.board = Scoreboard.create()
        self.outside = Outside(
            self.board, settings, surroundings, self.selector, Commands(service, self.board)
        )
        self._service = service
        self._signals = signals
        self._alarm = Alarm()

    def run(self, label: str, address: str, *, on_over: Callable[[], None] = lambda: None) -> None:
        """Serve until it is over; `on_over` is called then, before who waits for the end knows."""
        linux.adopt_orphans()
        linux.set_title(f"master {label}")
        linux.show_stacks_on_demand()
        others = linux.children()
        self.selector.register(self._signals, selectors.EVENT_READ, self._read_signals)
        now = time.monotonic()
        self._service.publish()
        self.outside.start(label, address, now)
        self._service.begin(now)
        while not self._service.is_over:
            self._turn()
        self.outside.admin.stop(time.monotonic())
        while not self.outside.admin.is_gone:
            self._turn()
        on_over()
        linux.kill_descendants(spare=others)
        logger.info("stopped")
        self.outside.close()

    def _turn(self) -> None:
        """Wait for events and act on them; a bug in obworker ends only this turn."""
        try:
            for key, _ in self.selector.select(self._patience()):
                key.data()
            self._service.reap()
            now = time.monotonic()
            self._service.act(now, may_judge=self._alarm.woke(now))
            self._service.publish()
            self.outside.tend(now)
        except Exception:  # the master's seam
            logger.exception("a bug in obworker, which goes on")
            time.sleep(TICK)  # a bug in every turn must not make the loop spin

    def _patience(self) -> float:
        """Return how long to wait for an event."""
        return self._alarm.set(
            time.monotonic(), self._service.next_deadline, self.outside.next_deadline
        )

    def _read_signals(self) -> None:
        reactions = self._service.reactions
        for number in self._signals.take():
            if number in reactions:
                reactions[number]()
