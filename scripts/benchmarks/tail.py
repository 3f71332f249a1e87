"""Latency of open-loop arrivals on four workers, beside an ideal queue and other servers."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections import defaultdict
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import options as types
from benchmarks import queueing, work
from benchmarks.claims import counted
from benchmarks.openloop import connected
from benchmarks.outcomes import Outcome, failures, lag_ms, latency_ms
from benchmarks.queueing import ideal_latencies, percentile
from benchmarks.servers import START_SECONDS, Running, Server, installed, running, wait_until
from benchmarks.tail_servers import LOADED, SERVERS, WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Job = tuple[float, float]

SERVICE = 0.020
CAPACITY = WORKERS / SERVICE
CONNECTIONS = 64
WARM_UP = 100
PATIENCE = 30.0
SETTLE_SECONDS = 1.0


class Figures(NamedTuple):
    """The figures in a row of the table, in milliseconds."""

    mean: float
    p50: float
    p99: float
    ratio: float
    errors: int
    lag: float


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "tail",
        help="latency of open-loop arrivals, beside an ideal queue and other servers",
        description=f"{WORKERS} workers whose predict sleeps {SERVICE * 1e3:.0f} ms, Poisson "
        f"arrivals over {CONNECTIONS} keep-alive connections; latency counts from the instant an "
        "arrival was due. The ideal is one FIFO queue, simulated on the very same arrivals and "
        "service times. lag is how late the client took an arrival up: well under the latencies, "
        "or the client was the bottleneck. An error counts as an infinite latency in p50 and p99.",
    )
    parser.add_argument(
        "--load",
        type=types.count,
        nargs="+",
        default=[50, 70, 90],
        metavar="PERCENT",
        help="arrivals, in percent of capacity",
    )
    parser.add_argument("--requests", type=types.count, default=2000, help="requests in a round")
    parser.add_argument("--rounds", type=types.count, default=1, help="rounds, put together")
    parser.add_argument("--body", type=types.size, default=0, metavar="SIZE", help="such as 1MiB")
    parser.add_argument(
        "--service",
        choices=("fixed", "lognormal"),
        default="fixed",
        help=f"service times; lognormal has the same mean, and {queueing.SIGMA:g} for sigma",
    )
    parser.add_argument("--seed", type=int, default=1, help="of arrivals and service times")
    types.add_only(parser, SERVERS)
    types.add_json(parser, "all figures")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure the chosen servers and print a table for each load."""
    servers = installed(SERVERS, getattr(options, "only", None))
    versions = ", ".join(f"{server.name} {server.version()}" for server in servers)
    print(
        f"{options.service} {SERVICE * 1e3:.0f} ms, body {options.body} B: {versions}", flush=True
    )
    tables = {load: _measure(servers, load, options) for load in options.load}
    if "json" in options:
        rows = {
            load: {name: figures._asdict() for name, figures in table.items()}
            for load, table in tables.items()
        }
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def _measure(
    servers: Sequence[Server], load: int, options: argparse.Namespace
) -> dict[str, Figures]:
    """Measure at one load, the servers in turns, and print the table."""
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    ideal: list[float] = []
    for number in range(options.rounds):
        jobs = list(_jobs(load, options, options.seed + number))
        ideal += ideal_latencies(jobs, WORKERS)
        for server in servers:
            outcomes[server.name] += _round(server, jobs, bytes(b"x" * options.body))
    table = {"ideal FIFO queue": _ideal(ideal)}
    table |= {name: _figures(found, table["ideal FIFO queue"]) for name, found in outcomes.items()}
    _print_table(load, table)
    for name, found in outcomes.items():
        if any(not outcome.ok for outcome in found):
            print(f"  {name}: {counted(failures(found), most=3)}")
    return table


def _jobs(load: int, options: argparse.Namespace, seed: int) -> Iterator[Job]:
    """Yield the arrivals of a round with their service times."""
    source = Random(seed)
    instants = queueing.poisson(CAPACITY * load / 100, source)
    is_fixed = options.service == "fixed"
    services = queueing.fixed(SERVICE) if is_fixed else queueing.lognormal(SERVICE, source)
    return itertools.islice(zip(instants, services, strict=False), options.requests)


def _round(server: Server, jobs: Sequence[Job], padding: bytes) -> list[Outcome]:
    """Start the server, warm it up, and return what became of the jobs."""
    ready = b"".join(work.message(0.0, server.path))
    warm_up = [(number * 2 * SERVICE / WORKERS, SERVICE) for number in range(WARM_UP)]
    with running(server, ready) as target:
        _wait_until_loaded(target)
        with connected(target.port, CONNECTIONS) as client:
            client.run(work.arrivals(warm_up, server.path, padding), PATIENCE)
            return client.run(work.arrivals(jobs, server.path, padding), PATIENCE)


def _wait_until_loaded(target: Running) -> None:
    """Wait until all workers have loaded, and a moment longer until they accept connections."""
    said = target.directory / LOADED
    what = f"{target.name}: {WORKERS} workers"
    wait_until(lambda: said.stat().st_size >= WORKERS, START_SECONDS, what)
    time.sleep(SETTLE_SECONDS)


def _ideal(latencies: Sequence[float]) -> Figures:
    p50, p99 = (percentile(latencies, percent) * 1e3 for percent in (50, 99))
    return Figures(statistics.fmean(latencies) * 1e3, p50, p99, 1.0, 0, 0.0)


def _figures(outcomes: Sequence[Outcome], ideal: Figures) -> Figures:
    answered = [outcome.latency for outcome in outcomes if outcome.ok]
    p99 = latency_ms(outcomes, 99)
    return Figures(
        mean=statistics.fmean(answered) * 1e3 if answered else math.inf,
        p50=latency_ms(outcomes, 50),
        p99=p99,
        ratio=p99 / ideal.p99,
        errors=len(outcomes) - len(answered),
        lag=lag_ms(outcomes),
    )


def _print_table(load: int, table: dict[str, Figures]) -> None:
    row = "{:<20}{:>10}{:>10}{:>10}{:>12}{:>9}{:>14}"
    heads = ("mean ms", "p50 ms", "p99 ms", "p99/ideal", "errors", "lag p99 ms")
    print("\n" + row.format(f"load {load}%", *heads))
    for name, figures in table.items():
        *times, ratio, errors, lag = figures
        print(
            row.format(
                name, *(f"{value:.1f}" for value in times), f"{ratio:.2f}", errors, f"{lag:.2f}"
            ),
            flush=True,
        )
