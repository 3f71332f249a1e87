"""How often four workers have a model's weights in memory, and how soon a dead worker is replaced.

A server needs memory of its own, whatever it serves. So each server is measured with one layer of
weights, too. What the other layers add, divided by their size, is how often they are in memory.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import memory_servers
from benchmarks import options as types
from benchmarks.claims import Claim, at_most, verdict
from benchmarks.load import Exchange, send_all
from benchmarks.memory_servers import BODY, LAYER_BYTES, WORKERS
from benchmarks.processes import MIB, proportional_bytes, resident_bytes
from benchmarks.servers import LOG_NAME, Running, Server, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS = 12
MODEL_BYTES = LAYERS * LAYER_BYTES
MOST, MOST_LATER = 1.35, 1.40
MOST_COPIES = 1.05
OF_GUNICORN = 0.35
MOST_LATENCY = 1.05
MOST_MS = 150.0
START_SECONDS = 60.0
CONNECTIONS = 8
WARM_UP = 160
ROUND, ROUNDS = 50, 10
ROW = "{:<22}{:>8}{:>11}{:>7}{:>29}"
READY = re.compile(r"worker \d+ .* ready in ")


class Found(NamedTuple):
    """The memory of all processes, at first and after many requests, and a replacement's time."""

    first: int
    later: int
    replaced_ms: list[float]

    def copies(self, small: Found) -> tuple[float, float]:
        """Return how often the weights are in memory, at first and after many requests."""
        added = MODEL_BYTES - LAYER_BYTES
        return (self.first - small.first) / added, (self.later - small.first) / added


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "memory",
        help="memory of workers that share their weights, and the time to replace one",
        description=f"Serve {MODEL_BYTES / MIB:.0f} MiB of weights on {WORKERS} workers. "
        "Memory is the PSS (proc(5), smaps_rollup) of all processes of a server: what they share "
        "counts once. Every answer is compared with that of a session in a process of its own.",
    )
    parser.add_argument(
        "--requests", type=types.count, default=10_000, help="until memory is looked at again"
    )
    parser.add_argument(
        "--launches", type=types.count, default=5, help="of the servers whose latency is compared"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure each server, print the table and the verdict."""
    session, weights = memory_servers.of_session, memory_servers.of_weights
    own = session(LAYERS, "--preload", "off")
    print(
        ROW.format("MiB", "1 layer", f"{LAYERS} layers", "later", "a worker is replaced in, ms"),
        "   copies",
    )
    shared, copies = _measure(session, options.requests)
    of_weights, preloaded = _measure(weights, options.requests)
    _measure(lambda layers: session(layers, "--preload", "off"), 0)
    beside, _ = _measure(memory_servers.gunicorn, 0)
    _measure(memory_servers.gunicorn_shared, 0)
    ratios = [_latency(session(LAYERS), own) for _ in range(options.launches)]
    print("latency, of that of one that is not shared:", *(f"{ratio:.3f}" for ratio in ratios))
    ratio = statistics.median(ratios)
    return verdict(
        [
            *_claims("session", shared, copies),
            *_claims(weights(1).name, of_weights, preloaded),
            at_most(
                "session: memory, of that of gunicorn", shared.first / beside.first, OF_GUNICORN
            ),
            at_most("session: ms to replace a worker", max(shared.replaced_ms), MOST_MS),
            at_most("session: latency, of that of one that is not shared", ratio, MOST_LATENCY),
        ]
    )


def _claims(what: str, found: Found, copies: tuple[float, float]) -> list[Claim]:
    return [
        at_most(f"{what}: memory, of the size of the model", found.first / MODEL_BYTES, MOST),
        at_most(f"{what}: the same, later", found.later / MODEL_BYTES, MOST_LATER),
        at_most(f"{what}: copies of the weights, soon and later", max(copies), MOST_COPIES),
    ]


def _measure(make: Callable[[int], Server], requests: int) -> tuple[Found, tuple[float, float]]:
    """Measure a server with one layer and with all layers, and print the results."""
    server = make(LAYERS)
    small, found = _serve(make(1), 1, 0), _serve(server, LAYERS, requests)
    copies = found.copies(small)
    sizes = (f"{size / MIB:.0f}" for size in (small.first, found.first))
    later = f"{found.later / MIB:.0f}" if requests else ""
    replaced = " ".join(f"{ms:.0f}" for ms in found.replaced_ms)
    print(ROW.format(server.name, *sizes, later, replaced), f"{copies[0]:>9.2f}", flush=True)
    return found, copies


def _serve(server: Server, layers: int, requests: int) -> Found:
    with running(server, Exchange(BODY, None).request()) as target:
        _wait_until_loaded(target, layers)
        exchange = Exchange(BODY, memory_servers.expected(server, target.directory))
        send_all(target.port, exchange, WARM_UP, CONNECTIONS)
        first = later = _bytes(target)
        if requests:
            send_all(target.port, exchange, requests, CONNECTIONS)
            later = _bytes(target)
        replaced = []
        if server.package == "obworker":
            replaced = [_replace(target, worker) for worker in sorted(target.workers(WORKERS))]
    return Found(first, later, replaced)


def _wait_until_loaded(target: Running, layers: int) -> None:
    """Wait until all workers have loaded the weights, shared or not."""
    least = layers * LAYER_BYTES
    wait_until(
        lambda: sum(resident_bytes(pid) > least for pid in target.processes()) >= WORKERS,
        START_SECONDS,
        f"{target.name}: {WORKERS} processes with a model",
    )


def _bytes(target: Running) -> int:
    return sum(map(proportional_bytes, target.processes()))


def _replace(target: Running, worker: int) -> float:
    """Kill a worker; return the milliseconds until the next one says that it is ready."""
    log = target.directory / LOG_NAME
    known = len(READY.findall(log.read_text()))
    began = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    wait_until(
        lambda: len(READY.findall(log.read_text())) > known,
        START_SECONDS,
        f"{target.name}: another worker",
    )
    return (time.monotonic() - began) * 1e3


def _latency(shared: Server, own: Server) -> float:
    """Return how much longer the first one takes; both servers take turns, also in beginning.

    A launch is a few percent faster or slower depending on where in memory its weights are.
    """
    request = Exchange(BODY, None).request()
    with running(shared, request) as first, running(own, request) as second:
        exchange = Exchange(BODY, memory_servers.expected(shared, first.directory))
        ratios = []
        for number in range(ROUNDS + 1):
            order = (first, second) if number % 2 else (second, first)
            seconds = {target: send_all(target.port, exchange, ROUND, 1) for target in order}
            ratios.append(seconds[first] / seconds[second])
    return statistics.median(ratios[1:])
