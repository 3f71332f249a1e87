"""Sends a million requests, to see whether the workers' memory or file descriptors grow."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import options as types
from benchmarks.claims import Claim, at_most, verdict
from benchmarks.echo_servers import BODY, PREDICTOR
from benchmarks.load import Exchange, send_all
from benchmarks.processes import MIB, open_files, resident_bytes
from benchmarks.servers import BenchError, obworker, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CONNECTIONS = 16
WARM_UP = 0.05
SETTLE_SECONDS = 1.0
MOST_GROWTH = 1.0


class Usage(NamedTuple):
    """The memory and file descriptors of a worker."""

    resident: int
    files: int


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "soak",
        help="growth of memory and file descriptors over a million requests",
        description=f"Echo requests over {CONNECTIONS} keep-alive connections; what each worker "
        f"holds after the first {WARM_UP:.0%}, and after the rest, with no connection open.",
    )
    parser.add_argument("--requests", type=types.count, default=1_000_000)
    parser.add_argument("--workers", type=types.count, default=2, help="of obworker")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load obworker, and compare its workers' resources before and after."""
    exchange = Exchange(json.dumps(BODY).encode(), BODY)
    server = obworker(PREDICTOR, "--workers", str(options.workers))
    warm_up = round(options.requests * WARM_UP)
    with running(server, exchange.request()) as target:
        workers = target.workers(options.workers)
        send_all(target.port, exchange, warm_up, CONNECTIONS)
        before = _usage(workers)
        seconds = send_all(target.port, exchange, options.requests - warm_up, CONNECTIONS)
        if target.workers(options.workers) != workers:
            raise BenchError("a worker was replaced")
        after = _usage(workers)
    print(f"{options.requests - warm_up} requests in {seconds:.0f} s after a warm-up of {warm_up}")
    return verdict([claim for pid in workers for claim in _claims(before[pid], after[pid])])


def _usage(workers: Iterable[int]) -> dict[int, Usage]:
    """Return the workers' resources, after they have closed the connections of the load."""
    time.sleep(SETTLE_SECONDS)
    return {pid: Usage(resident_bytes(pid), open_files(pid)) for pid in workers}


def _claims(before: Usage, after: Usage) -> Iterator[Claim]:
    growth = (after.resident / before.resident - 1) * 100
    size = f"from {before.resident / MIB:.1f} to {after.resident / MIB:.1f} MiB"
    yield at_most(f"growth of memory {size}, %", growth, MOST_GROWTH)
    yield at_most(f"file descriptors, {before.files} before", after.files, before.files)
