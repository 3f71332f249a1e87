"""Throughput with batches of a model with a high cost per call, and the latency of one client."""

from __future__ import annotations

import argparse
import socket
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import options as types
from benchmarks.batch_servers import CALL, CALLS, ITEM, batching, litserve
from benchmarks.claims import Claim, at_least, at_most, verdict
from benchmarks.load import STALL_SECONDS, Exchange, Load
from benchmarks.servers import BenchError, installed, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.servers import Running, Server

WARM_UP_SECONDS = 2.0
MOST_REQUESTS = 10**9
LEAST_SHARE = 0.9
MOST_EXTRA_MS = 0.3
ALONE = 100


@dataclass
class Measured:
    """The results of a server's rounds."""

    answered: int = 0
    calls: int = 0
    seconds: float = 0.0
    alone_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return self.answered / self.seconds

    @property
    def size(self) -> float:
        """The average number of requests in a call."""
        return self.answered / self.calls

    @property
    def ideal(self) -> float:
        """The rate of the model alone with batches of that size, without a server."""
        return self.size / (CALL + ITEM * self.size)

    @property
    def p50(self) -> float:
        """The median latency of a single client, in milliseconds."""
        return statistics.median(self.alone_ms)


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "batch",
        help="throughput and latency with batches, beside LitServe",
        description=f"One worker, whose model takes {CALL * 1e3:.0f} ms for a call and "
        f"{ITEM * 1e3:.1f} ms for each request in it. Clients send the next request on the answer "
        "to the last. The ideal is that model without a server, with batches as large as they were "
        "on average. Rounds of all servers alternate; each starts its server anew.",
    )
    parser.add_argument("--connections", type=types.count, default=64, help="clients at once")
    parser.add_argument("--size", type=types.count, default=16, help="of a batch, at most")
    parser.add_argument(
        "--litserve-timeout", type=types.delay, default=0.0, help="its batch_timeout, in seconds"
    )
    parser.add_argument("--rounds", type=types.count, default=3, help="of each server")
    parser.add_argument("--seconds", type=types.count, default=10, help="of a round")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure in turns, print a table, and judge."""
    rivals = installed([litserve(options.size, options.litserve_timeout)], None)
    servers = {"obworker": batching(options.size), "obworker, no batches": batching(1)}
    servers |= {f"{rival.name} {rival.version()}": rival for rival in rivals}
    table = {name: Measured() for name in servers}
    for _ in range(options.rounds):
        for name, server in servers.items():
            _measure(server, options, table[name])
    _print_table(table)
    ours, single, *others = table.values()
    claims = [
        at_least("rate, as a part of the ideal", ours.rate / ours.ideal, LEAST_SHARE),
        at_most("p50 alone, ms more than without batches", ours.p50 - single.p50, MOST_EXTRA_MS),
        *(_is_above(name, ours, other) for name, other in list(table.items())[2:] if others),
    ]
    return verdict(claims)


def _is_above(name: str, ours: Measured, other: Measured) -> Claim:
    return at_least(f"rate, as a multiple of that of {name}", ours.rate / other.rate, 1.0)


def _measure(server: Server, options: argparse.Namespace, found: Measured) -> None:
    exchange = Exchange(b'{"x":1}', {"y": 1}, server.path)
    with running(server, exchange.request()) as target:
        _load(target, exchange, options.connections, WARM_UP_SECONDS)
        before = _calls(target)
        seconds, answered = _load(target, exchange, options.connections, options.seconds)
        found.calls += _calls(target) - before
        found.seconds += seconds
        found.answered += answered
        found.alone_ms += _latencies_ms(target.port, exchange.request())


def _load(
    target: Running, exchange: Exchange, connections: int, seconds: float
) -> tuple[float, int]:
    load = Load(target.port, exchange, MOST_REQUESTS, seconds).run(connections)
    load.without_failures(target.name)
    return load.wall, load.answered


def _calls(target: Running) -> int:
    return (target.directory / CALLS).stat().st_size


def _latencies_ms(port: int, request: bytes) -> list[float]:
    """Return the latencies of a few requests that one client sends one after the other."""
    latencies = []
    with socket.create_connection(("127.0.0.1", port), STALL_SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(ALONE):
            begun = time.monotonic()
            client.sendall(request)
            _receive(client)
            latencies.append((time.monotonic() - begun) * 1e3)
    return latencies


def _receive(client: socket.socket) -> None:
    """Read an answer, whose body is an object."""
    received = b""
    while not received.endswith(b"}"):
        arrived = client.recv(65536)
        if not arrived:
            raise BenchError(f"the client that is alone was left with {received!r}")
        received += arrived
    if not received.startswith(b"HTTP/1.1 200 "):
        raise BenchError(f"the client that is alone was answered {received!r}")


def _print_table(table: dict[str, Measured]) -> None:
    row = "{:<24}{:>10}{:>12}{:>10}{:>14}"
    print(row.format("", "rate/s", "mean size", "of ideal", "p50 alone ms"))
    for name, found in table.items():
        share = f"{found.rate / found.ideal:.1%}"
        cells = (f"{found.rate:.0f}", f"{found.size:.1f}", share, f"{found.p50:.2f}")
        print(row.format(name, *cells))
