"""CPU time per request of the same JSON echo on obworker and on other servers, in one run."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import options as types
from benchmarks.echo_servers import BODY, SERVERS
from benchmarks.load import Exchange, Load
from benchmarks.processes import cpu_seconds
from benchmarks.servers import BenchError, Running, Server, installed, running, take_core

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUND_SECONDS = 30.0
LIBRARIES = ("flask", "fastapi", "orjson")
BASE = "obworker"


@dataclass
class Measured:
    """The results of a server's rounds, with one number for each round."""

    cpu_us: list[float] = field(default_factory=list)
    wall_rps: list[float] = field(default_factory=list)

    def median_us(self) -> float:
        """Return the median CPU time of a request in microseconds."""
        return statistics.median(self.cpu_us)


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "echo",
        help="CPU per request of a JSON echo, beside other servers",
        description="Compare the CPU time per request of the same JSON echo on several servers. "
        "All run on one core, the load on another; their rounds are interleaved. CPU time is user "
        "and system time of the server's whole process tree; busy is its share of the time: well "
        "under 100%, the load or other work on the machine held the server back.",
    )
    parser.add_argument("--rounds", type=types.count, default=5, help="rounds after one warm-up")
    parser.add_argument(
        "--requests",
        type=types.count,
        default=20000,
        help=f"requests in a round, or as many as {ROUND_SECONDS:.0f} s allow",
    )
    parser.add_argument("--connections", type=types.count, default=8, help="connections at once")
    types.add_only(parser, SERVERS)
    types.add_json(parser, "every round's numbers")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure the chosen servers and print the table."""
    servers = installed(SERVERS, getattr(options, "only", None))
    core = take_core()
    setting = _setting(options, servers)
    print("; ".join(f"{name} {value}" for name, value in setting.items()), flush=True)
    measured = _measure(servers, core, options)
    _print_table(measured)
    if "json" in options:
        _write_json(options.json, setting, measured)


def _setting(options: argparse.Namespace, servers: Sequence[Server]) -> dict[str, str | int]:
    """Return the versions and options that a reader needs to repeat the measurement."""
    return {
        "connections": options.connections,
        "requests": options.requests,
        "rounds": options.rounds,
        "python": platform.python_version(),
        **{server.package: server.version() or "" for server in servers},
        **{library: metadata.version(library) for library in LIBRARIES},
    }


def _measure(
    servers: Sequence[Server], core: int, options: argparse.Namespace
) -> dict[str, Measured]:
    exchange = Exchange(json.dumps(BODY).encode(), BODY)
    measured = {server.name: Measured() for server in servers}
    with ExitStack() as stack:
        targets = [
            stack.enter_context(running(server, exchange.request(), [core])) for server in servers
        ]
        for target in targets:
            _round(target, exchange, options)
        for _ in range(options.rounds):
            for target in targets:
                cpu_us, wall_rps = _round(target, exchange, options)
                measured[target.name].cpu_us.append(cpu_us)
                measured[target.name].wall_rps.append(wall_rps)
    return measured


def _round(target: Running, exchange: Exchange, options: argparse.Namespace) -> tuple[float, float]:
    """Load the server once and return CPU microseconds per request and requests per second."""
    processes = target.processes()
    before = _cpu_seconds(processes)
    load = Load(target.port, exchange, options.requests, ROUND_SECONDS).run(options.connections)
    load.without_failures(target.name)
    if target.processes() != processes:
        raise BenchError(f"{target.name}: its processes changed during a round, CPU time is lost")
    cpu = _cpu_seconds(processes) - before
    return cpu / load.answered * 1e6, load.answered / load.wall


def _cpu_seconds(processes: frozenset[int]) -> float:
    try:
        return cpu_seconds(processes)
    except OSError as error:
        raise BenchError("a process of the server ended, its CPU time is lost") from error


def _print_table(measured: dict[str, Measured]) -> None:
    base = measured.get(BASE)
    row = "{:<24}{:>9}{:>18}{:>14}{:>12}{:>8}{:>12}"
    print(row.format("", "us/req", "min..max", "req/s/core", "wall req/s", "busy", "x obworker"))
    for name, rounds in sorted(measured.items(), key=lambda item: item[1].median_us()):
        cpu_us = rounds.median_us()
        wall_rps = statistics.median(rounds.wall_rps)
        print(
            row.format(
                name,
                f"{cpu_us:.1f}",
                f"{min(rounds.cpu_us):.1f}..{max(rounds.cpu_us):.1f}",
                f"{1e6 / cpu_us:.0f}",
                f"{wall_rps:.0f}",
                f"{cpu_us * wall_rps / 1e4:.0f}%",
                f"{cpu_us / base.median_us():.2f}" if base else "-",
            )
        )


def _write_json(file: Path, setting: dict[str, str | int], measured: dict[str, Measured]) -> None:
    rounds = {
        name: {"cpu_us": rounds.cpu_us, "wall_rps": rounds.wall_rps}
        for name, rounds in measured.items()
    }
    file.write_text(json.dumps({"setting": setting, "rounds": rounds}, indent=2) + "\n")
