"""Scenario: start, reload, freeze and restart under a real systemd, with obworker's own units."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from clients import Load, Outcome
from harness import eventually, request
from process_one import Systemd, why_not
from units import Service, prepare

from scorecards.kinds import Obworker
from scorecards.scenarios import Measured, Scenario, Serve
from scorecards.servers import NotApplicable
from scorecards.waiting import Late

RESTARTS = 3
ANSWERS_BETWEEN_RESTARTS = 50
# EXTEND_TIMEOUT_USEC extends the watchdog together with the other timeouts (sd_notify(3)). So
# systemd notices only after half a minute that a master has frozen right after a reload.
RESTART_SECONDS = 60
FAILURES = (Outcome.FAILED, Outcome.LOST, Outcome.REFUSED)


def under_systemd(serve: Serve) -> Measured:
    """Start, reload and freeze one instance; restart another, with a socket unit, under load."""
    if not issubclass(serve.kind, Obworker):
        raise NotApplicable("no units of its own")
    if reason := why_not():
        raise NotApplicable(reason)
    try:
        with _booted(serve.directory) as systemd:
            frozen_for = _start_reload_and_freeze(Service(systemd, "alone"))
            total, failed = _restart_under_load(Service(systemd, "activated"))
    except AssertionError as error:  # from the tests' modules that this uses, such as units.py
        raise Late(str(error)) from error
    told = f"a frozen master replaced after {frozen_for:.1f} s"
    return Measured(not failed, f"started, reloaded, {told}, {failed} of {total} failed")


@contextmanager
def _booted(directory: Path) -> Iterator[Systemd]:
    systemd = prepare(directory)
    try:
        yield systemd.boot()
    finally:
        systemd.shut_down()


def _start_reload_and_freeze(service: Service) -> float:
    """Return after how many seconds the watchdog had replaced a frozen master."""
    service.systemctl("start")
    assert request(service.port, timeout=1).status == 200
    service.systemctl("reload")
    eventually(lambda: any("worker 0 g2" in title for title in service.titles()))
    eventually(lambda: service.show("ActiveState") == "active", what="the end of the reload")
    frozen_at = time.monotonic()
    service.master.send_signal(signal.SIGSTOP)
    eventually(lambda: service.show("NRestarts") == "1", RESTART_SECONDS, "a restart")
    eventually(lambda: service.show("ActiveState") == "active", RESTART_SECONDS, "activity")
    assert request(service.port).status == 200
    service.stop()
    return time.monotonic() - frozen_at


def _restart_under_load(service: Service) -> tuple[int, int]:
    """Return how many requests there were, and how many failed."""
    port = service.listen()
    service.systemctl("start")
    load = Load(port, threads=8)
    for _ in range(RESTARTS):
        service.systemctl("restart")
        wanted = len(load.results) + ANSWERS_BETWEEN_RESTARTS
        eventually(partial(_has_results, load, wanted), what="more answers")
    results = load.stop()
    service.stop()
    return len(results), sum(result.outcome in FAILURES for result in results)


def _has_results(load: Load, wanted: int) -> bool:
    return len(load.results) >= wanted


SCENARIOS = (
    Scenario(
        "systemd",
        "real systemd: start, reload, watchdog, 3 restarts under load",
        "works; 0 failed on socket-activated restarts",
        under_systemd,
    ),
)
