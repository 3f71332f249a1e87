"""Latency of good clients, with and without many slow ones beside them."""

from __future__ import annotations

import argparse
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import options as types
from benchmarks import work
from benchmarks.claims import Claim, at_most, verdict
from benchmarks.openloop import connected
from benchmarks.outcomes import Outcome, failures, latency_ms
from benchmarks.servers import obworker, running
from benchmarks.slow_clients import Course, raise_open_files, slow_clients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.openloop import OpenLoop
    from benchmarks.outcomes import Arrival

SERVICE = 0.020
LOAD = 0.5
CONNECTIONS = 32
PATIENCE = 10.0
SETTLE_SECONDS = 2
CUT_OFF = 10
"""The seconds after which obworker cuts off the slow clients of each kind."""
MOST_RATIO = 1.2

PREDICTOR = """\
import time

LARGE = bytes(1 << 20)


class Predictor:
    def predict(self, json):
        if json.get("large"):
            return LARGE
        time.sleep(json["seconds"])
        return {"ok": True}
"""


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "slow",
        help="latency of good clients beside many slow ones",
        description="A third of the slow clients send a header, a byte each second, a third a body "
        "at 10 bytes a second, a third ask for 1 MiB and do not read it; they are cut off after "
        f"{CUT_OFF} s, and come again. Good clients ask for {SERVICE * 1e3:.0f} ms of sleep at "
        f"{LOAD:.0%} load. Rounds with and without slow clients alternate, with the same arrivals.",
    )
    parser.add_argument("--clients", type=types.count, default=2000, help="slow ones")
    parser.add_argument("--workers", type=types.count, default=4, help="of obworker")
    parser.add_argument(
        "--within",
        type=types.delay,
        default=10.0,
        metavar="SECONDS",
        help="in which the slow ones come",
    )
    parser.add_argument("--rounds", type=types.count, default=3, help="with and without each")
    parser.add_argument("--seconds", type=types.count, default=15, help="of a round")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure with and without slow clients in turns; print both latencies and the verdict."""
    raise_open_files(options.clients + 1000)
    timeouts = ("--header-timeout", str(CUT_OFF), "--body-timeout", str(CUT_OFF))
    server = obworker(PREDICTOR, "--workers", str(options.workers), *timeouts)
    ready = b"".join(work.message(0.0))
    found: list[Outcome] = []
    ratios = []
    print(f"{options.clients} slow clients")
    with running(server, ready) as target, connected(target.port, CONNECTIONS) as client:
        for seed in range(1, options.rounds + 1):
            alone = _measured(client, options, seed)
            with slow_clients(target.port, options.clients, options.within) as course:
                beside = _measured(client, options, seed)
            found += alone + beside
            ratios.append(latency_ms(beside, 99) / latency_ms(alone, 99))
            print(
                f"{_latencies(alone, beside)}: {ratios[-1]:.2f} times; {_told(course)}", flush=True
            )
    failed = failures(found)
    return verdict(
        [
            at_most("p99 beside slow clients / alone, median", median(ratios), MOST_RATIO),
            Claim(f"none of {len(found)} good requests failed", str(dict(failed) or 0), not failed),
        ]
    )


def _measured(client: OpenLoop, options: argparse.Namespace, seed: int) -> list[Outcome]:
    """Return a round's outcomes; an unmeasured round before it lets the server settle."""
    client.run(_arrivals(options, seed=0, seconds=SETTLE_SECONDS), PATIENCE)
    return client.run(_arrivals(options, seed, options.seconds), PATIENCE)


def _latencies(alone: list[Outcome], beside: list[Outcome]) -> str:
    """Return the medians and the tails as text."""
    p50, p99 = ([latency_ms(found, percent) for found in (alone, beside)] for percent in (50, 99))
    return f"p50 {p50[0]:.1f} and {p50[1]:.1f} ms, p99 {p99[0]:.1f} and {p99[1]:.1f} ms"


def _told(course: Course) -> str:
    """Return as text what happened to the slow clients."""
    cuts = ", ".join(f"{count} x {kind}" for kind, count in sorted(course.cut.items()))
    return f"cut off {cuts or 'none'}; a step was {course.latest * 1e3:.0f} ms late at most"


def _arrivals(options: argparse.Namespace, seed: int, seconds: int) -> Iterator[Arrival]:
    return work.steady(LOAD * options.workers / SERVICE, seconds, SERVICE, seed)
