"""Scenarios: reloads onto broken code, reloads onto slow code, and very many reloads."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from scorecards.models import EXCEPTION, EXIT, KILLED, SEGFAULT, SYNTAX_ERROR, Model
from scorecards.scenarios import Measured, Scenario, Serve
from scorecards.servers import Server, Verdict
from scorecards.waiting import Late, eventually

REFUSED_CODE = 4
SLOW_IMPORT = "time.sleep(4)"
MOST_DELAY = 0.5
DRAIN_REQUESTS = 300
WARM_UP = 10
RELOADS = 200
MOST_GROWTH_PER_RELOAD = 10 << 10
SETTLE_SECONDS = 15.0


def onto_broken_code(broken: Model, cause: str, serve: Serve) -> Measured:
    """Reload onto code that does not run, under load."""
    server = serve(Model("old"), workers=2)
    with server.load() as load:
        load.go_on(40)
        server.redeploy(broken)
        verdict = server.reload()
        load.go_on(40)
    serves = load.is_served_by("old")
    state = f"it ended with {server.wait(0)}" if server.has_ended else _still_serving(serves)
    said, is_told = _account(verdict, cause)
    return Measured(serves and not load.failures and is_told, f"{load}, {state}{said}")


def _still_serving(serves: bool) -> str:
    return "the old code serves on" if serves else "the old code does not serve on"


def _account(verdict: Verdict, cause: str) -> tuple[str, bool]:
    """Return what the server reported about a failed reload, and whether that was right."""
    if verdict.code is None:
        return "", True
    is_named = re.search(cause, verdict.reason) is not None
    reason = "with the reason" if is_named else f"without the reason: {verdict.reason[-80:]!r}"
    return (
        f", reload --wait exits {verdict.code} {reason}",
        verdict.code == REFUSED_CODE and is_named,
    )


def onto_slow_code(workers: int, serve: Serve) -> Measured:
    """Reload onto good code that takes a long time to import, under load."""
    server = serve(Model("old"), workers=workers)
    with server.load() as load:
        load.go_on(100)
        usual = load.usual
        server.redeploy(Model("new", at_import=SLOW_IMPORT))
        verdict = server.reload()
        with suppress(Late):
            eventually(lambda: load.is_served_by("new"), 10, "the new code")
        load.go_on(DRAIN_REQUESTS)
    delay = load.slowest - usual
    is_new = load.is_served_by("new") and not server.has_ended
    ok = is_new and not load.failures and delay <= MOST_DELAY and verdict.code in (None, 0)
    told = f", reload --wait exits {verdict.code}" if verdict.code else ""
    serving = "" if is_new else ", the new code does not serve"
    return Measured(ok, f"{load}, slowest {delay:.2f} s over usual{serving}{told}")


class Footprint(NamedTuple):
    """The master's descriptors and memory in bytes, and the number of all processes."""

    descriptors: int
    processes: int
    memory: int


def many(reloads: int, serve: Serve) -> Measured:
    """Reload very often under load, each time as soon as the last reload has a ready worker."""
    server = serve(Model())
    fresh = _footprint(server)
    with server.load() as load:
        _reload_often(server, WARM_UP)
        before = _settled(server, fresh)
        _reload_often(server, reloads)
        after = _settled(server, before)
    descriptors, processes, memory = (new - old for old, new in zip(before, after, strict=True))
    leaks = descriptors > 0 or processes > 0 or memory > MOST_GROWTH_PER_RELOAD * reloads
    grown = f"{descriptors:+d} fd, {processes:+d} processes, {memory / (1 << 20):+.1f} MiB"
    return Measured(not leaks and not load.failures, f"{load}, {grown}")


def _reload_often(server: Server, times: int) -> None:
    for _ in range(times):
        known = len(server.noted("ready"))
        server.signal(signal.SIGHUP)
        server.wait_for_more("ready", known)


def _settled(server: Server, like: Footprint) -> Footprint:
    """Wait until old workers have drained or the time is up, and return the footprint then."""

    def is_back() -> bool:
        now = _footprint(server)
        return now.descriptors <= like.descriptors and now.processes <= like.processes

    with suppress(Late):
        eventually(is_back, SETTLE_SECONDS, "end of the old processes")
    return _footprint(server)


def _footprint(server: Server) -> Footprint:
    master = server.master
    return Footprint(master.num_fds(), len(server.family.members()), master.memory_info().rss)


KEPT = "old code serves on, 0 failed, reload --wait exits 4 with the reason"
SMOOTH = "0 failed, none 0.5 s slower than usual, same pid"
BROKEN = {
    "syntax-error": ("a syntax error", SYNTAX_ERROR.at_import(), SYNTAX_ERROR.cause),
    "exception": ("an exception at import", EXCEPTION.at_import(), EXCEPTION.cause),
    "exit": ("sys.exit(0) at import", EXIT.at_import(), EXIT.cause),
    "killed": ("a SIGKILL at import", KILLED.at_import(), KILLED.cause),
    "segfault": ("a segfault at import", SEGFAULT.at_import(), SEGFAULT.cause),
    "init": ("a failing __init__", EXCEPTION.at_init(), EXCEPTION.cause),
}

SCENARIOS = (
    *(
        Scenario(
            f"reload-{name}", f"HUP onto {what}", KEPT, partial(onto_broken_code, model, cause)
        )
        for name, (what, model, cause) in BROKEN.items()
    ),
    *(
        Scenario(
            f"reload-slow-{workers}",
            f"HUP onto a 4 s import, {workers} worker{'s'[: workers - 1]}",
            SMOOTH,
            partial(onto_slow_code, workers),
        )
        for workers in (1, 2)
    ),
    Scenario(
        f"reload-{RELOADS}",
        f"{RELOADS} HUPs in a row under load",
        "0 failed, no leak",
        partial(many, RELOADS),
    ),
)
