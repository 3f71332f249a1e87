"""Scenario: an operator reloads, scales and ends workers in random order and without waiting."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress

from scorecards.load import Load
from scorecards.models import Model
from scorecards.scenarios import Measured, Scenario, Serve
from scorecards.servers import Server
from scorecards.waiting import Late, eventually

SEED = 1
ACTS = 40
# Signals of the same kind that are sent at the same time arrive as one (signal(7)).
PAUSES = (0.05, 0.5)
WORKERS = 2
MOST_WORKERS = 4
SETTLE_SECONDS = 15.0
STEADY_SECONDS = 0.5


class Operator:
    """Reloads, resizes and ends workers at random; knows how many workers there should be."""

    def __init__(self, server: Server, chance: random.Random) -> None:
        self.workers = server.options.workers
        self._server = server
        self._chance = chance

    def act(self) -> None:
        """Carry out a random operation."""
        acts: list[Callable[[], None]] = [self._reload, self._resize, self._end_a_worker]
        self._chance.choice(acts)()

    def _reload(self) -> None:
        for _ in range(self._chance.choice([1, 1, 2])):
            self._server.signal(signal.SIGHUP)

    def _resize(self) -> None:
        steps = [step for step in (-1, 1) if 1 <= self.workers + step <= MOST_WORKERS]
        step = self._chance.choice(steps)
        self.workers += step
        self._server.signal(signal.SIGTTIN if step > 0 else signal.SIGTTOU)

    def _end_a_worker(self) -> None:
        with suppress(ProcessLookupError, IndexError):  # the worker has just left by itself
            os.kill(self._chance.choice(sorted(self._server.workers())), signal.SIGTERM)


def in_any_order(serve: Serve) -> Measured:
    """Carry out many random operations under load."""
    server, chance = serve(Model(), workers=WORKERS), random.Random(SEED)
    operator = Operator(server, chance)
    with server.load() as load:
        for _ in range(ACTS):
            operator.act()
            load.run_for(chance.uniform(*PAUSES))
        found = _steady_workers(server, load, operator.workers)
    ended = server.has_ended
    state = f"it ended with {server.wait(0)}" if ended else f"{found} of {operator.workers} workers"
    ok = not load.failures and not ended and found == operator.workers
    return Measured(ok, f"{load}, {state}")


def _steady_workers(server: Server, load: Load, wanted: int) -> int:
    """Wait until as many workers as wanted run and none comes or goes; return how many run then.

    The wait is needed because a worker and the one that replaces it run side by side for a moment.
    """

    def are_as_wanted() -> bool:
        before = server.workers()
        load.run_for(STEADY_SECONDS)
        return len(before) == wanted and server.workers() == before

    try:
        eventually(are_as_wanted, SETTLE_SECONDS, "workers")
    except Late:
        return len(server.workers())
    return wanted


SCENARIOS = (
    Scenario(
        "any-order",
        f"{ACTS} random HUPs, TTINs, TTOUs, TERMs to workers",
        "0 failed, as many workers as asked for",
        in_any_order,
    ),
)
