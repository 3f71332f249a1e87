"""Scenarios: workers that die, freeze, or are recycled after enough requests."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

from scorecards.clients import ask
from scorecards.load import Load
from scorecards.models import Model
from scorecards.scenarios import Measured, Scenario, Serve
from scorecards.waiting import Late

TIMEOUT = 2.0
MOST_OVER_TIMEOUT = 8.0
MOST_REPLACEMENT_SECONDS = 0.5
STACKS = "most recent call first"
RECYCLED_AT = 100
RECYCLING_REQUESTS = 800
FEWEST_RECYCLED = 3


def killed(serve: Serve) -> Measured:
    """Kill one worker of two under load."""
    server = serve(Model(), workers=2)
    with server.load() as load:
        load.go_on(40)
        known = len(server.noted("ready"))
        killed_at = time.monotonic()
        os.kill(min(server.workers()), signal.SIGKILL)
        replaced = server.wait_for_more("ready", known).at - killed_at
        load.go_on(100)
    ok = len(load.failures) <= 1 and replaced < MOST_REPLACEMENT_SECONDS
    return Measured(ok, f"{load}, replacement ready after {replaced:.2f} s")


def frozen(do: str, may_close: bool, serve: Serve) -> Measured:
    """Send the only worker a request that blocks it for ever."""
    server = serve(Model(), timeout=TIMEOUT)
    known = len(server.noted("ready"))
    result = ask(server.port, do, timeout=TIMEOUT + MOST_OVER_TIMEOUT)
    left = result.sent + TIMEOUT + MOST_OVER_TIMEOUT - time.monotonic()
    try:
        replaced = server.wait_for_more("ready", known, within=left).at - result.sent
    except Late:
        return Measured(False, f"{result}, never replaced")
    has_stacks = STACKS in server.log()
    is_told = result.status == 504 or (may_close and result.is_closed)
    stacks = "stacks in the log" if has_stacks else "no stacks in the log"
    ok = is_told and has_stacks and ask(server.port).ok
    return Measured(ok, f"{result}, replaced after {replaced:.1f} s, {stacks}")


def recycled(serve: Serve) -> Measured:
    """Recycle workers after so many requests, under load."""
    server = serve(Model(), workers=2, max_requests=RECYCLED_AT)
    with server.load() as load:
        load.go_on(RECYCLING_REQUESTS, within=30)
    replacements = len(_workers_seen(load)) - server.options.workers
    ok = not load.failures and replacements >= FEWEST_RECYCLED
    return Measured(ok, f"{load}, {replacements} replacements served")


def _workers_seen(load: Load) -> set[int]:
    return {result.json["pid"] for result in load.results if result.ok}


REPLACED = "replaced within --timeout + 8 s, stacks in the log"
FROZEN = {
    "stopped": ("SIGSTOPped worker", "stop", True),
    "spinning": ("predict in `while True: pass`", "spin", False),
    "holds-gil": ("predict in a C call that holds the GIL", "hold_for_ever", True),
}

SCENARIOS = (
    Scenario(
        "worker-killed",
        "kill -9 one worker of 2 under load",
        "at most 1 request lost, replacement ready < 0.5 s",
        killed,
    ),
    *(
        Scenario(
            f"worker-{name}",
            what,
            f"504{' or closed' if may_close else ''}, {REPLACED}",
            partial(frozen, do, may_close),
        )
        for name, (what, do, may_close) in FROZEN.items()
    ),
    Scenario(
        "worker-recycled", "recycling at 100 requests under load, 2 workers", "0 failed", recycled
    ),
)
