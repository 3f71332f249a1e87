"""Latency of good clients, with and without many slow ones beside them."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from benchmarks import options as types
from benchmarks import work
from benchmarks.claims import Claim, at_most, verdict
from benchmarks.openloop import connected
from benchmarks.outcomes import Outcome, failures, latency_ms
from benchmarks.servers import obworker, running
from benchmarks.slow_clients import raise_open_files, slow_clients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.outcomes import Arrival

SERVICE = 0.020
LOAD = 0.5
CONNECTIONS = 32
PATIENCE = 10.0
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
        "at 10 bytes a second, a third ask for 1 MiB and do not read it; one that is cut off comes "
        f"again. Good clients ask for {SERVICE * 1e3:.0f} ms of sleep at {LOAD:.0%} load. Rounds "
        "with and without slow clients alternate.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--clients", type=types.count, default=2000, help="slow ones")
    parser.add_argument("--workers", type=types.count, default=4, help="of obworker")
    parser.add_argument("--rounds", type=types.count, default=3, help="with and without each")
    parser.add_argument("--seconds", type=types.count, default=15, help="of a round")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure in turns and print both latencies."""
    raise_open_files(options.clients + 1000)
    server = obworker(PREDICTOR, "--workers", str(options.workers))
    alone: list[Outcome] = []
    beside: list[Outcome] = []
    cut: Counter[str] = Counter()
    ready = b"".join(work.message(0.0))
    with running(server, ready) as target, connected(target.port, CONNECTIONS) as client:
        client.run(_arrivals(options, seed=0, seconds=2), PATIENCE)
        for seed in range(1, options.rounds + 1):
            alone += client.run(_arrivals(options, seed, options.seconds), PATIENCE)
            with slow_clients(target.port, options.clients) as cut_now:
                beside += client.run(_arrivals(options, seed, options.seconds), PATIENCE)
            cut += cut_now
    cuts = ", ".join(f"{count} x {kind}" for kind, count in cut.most_common())
    print(f"slow clients: {options.clients}, cut off {cuts or 'never'}")
    for name, found in (("alone", alone), ("beside slow clients", beside)):
        p50, p99 = latency_ms(found, 50), latency_ms(found, 99)
        print(f"{name}: {len(found)} requests, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    failed = failures(alone + beside)
    ratio = latency_ms(beside, 99) / latency_ms(alone, 99)
    return verdict(
        [
            at_most("p99 beside slow clients / alone", ratio, MOST_RATIO),
            Claim("no good request failed", str(dict(failed) or 0), not failed),
        ]
    )


def _arrivals(options: argparse.Namespace, seed: int, seconds: int) -> Iterator[Arrival]:
    return work.steady(LOAD * options.workers / SERVICE, seconds, SERVICE, seed)
