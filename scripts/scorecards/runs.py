"""Runs a scenario: starts servers for it, and leaves none of their processes behind."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from scorecards.report import Outcome, Row
from scorecards.scenarios import Scenario, Serve
from scorecards.servers import Ended, NotApplicable, Server
from scorecards.waiting import Late


def run(scenario: Scenario, kind: type[Server]) -> Row:
    """Measure the scenario on that kind of server."""
    started = time.monotonic()
    # The path of a unix socket may have 107 bytes at most (unix(7)), and pytest's directories are
    # too deep for that.
    with tempfile.TemporaryDirectory(prefix="scorecard-") as name:
        serve = Serve(kind, Path(name))
        try:
            outcome, measured = _measure(scenario, serve)
        finally:
            serve.close()
        log = serve.log()
    seconds = time.monotonic() - started
    return Row(scenario.name, scenario.title, scenario.required, measured, outcome, seconds, log)


def _measure(scenario: Scenario, serve: Serve) -> tuple[Outcome, str]:
    try:
        ok, text = scenario.measure(serve)
    except NotApplicable as missing:
        return Outcome.NOT_APPLICABLE, str(missing)
    except (Ended, Late) as miss:
        return Outcome.MISS, str(miss)
    # a process has ended while it was looked at, or a port refuses connections
    except (OSError, psutil.Error) as error:
        return Outcome.MISS, f"{type(error).__name__}: {error}"
    return (Outcome.OK if ok else Outcome.MISS), text
