"""How much serving slows a model down: requests per core, and calls of predict in a bare loop."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from benchmarks import options as types
from benchmarks.claims import Claim, at_least, verdict
from benchmarks.load import Exchange, Load
from benchmarks.onnx_cases import LOOP, Case, cases
from benchmarks.processes import cpu_seconds
from benchmarks.servers import BenchError, Running, obworker, running, take_core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHARE = 95.0
CLAIMED_FROM = 0.005
FIRST_CALLS = 20


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "onnx",
        help="requests per core of ONNX models, beside a bare loop",
        description="Serve ONNX models with one worker on one core, loaded from another, and call "
        "the same predict with the same body in a loop on that core; their rounds take turns. "
        "Requests per core are those per second of CPU time, of all the server's processes.",
    )
    parser.add_argument("--rounds", type=types.count, default=7, help="rounds after one warm-up")
    parser.add_argument("--seconds", type=types.count, default=2, help="length of a round")
    parser.add_argument("--connections", type=types.count, default=4, help="connections at once")
    parser.set_defaults(run=run)


@dataclass
class Measured:
    """The CPU seconds of a call in the loop and of a request, with one number for each round."""

    loop: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)

    @property
    def call(self) -> float:
        """The median CPU seconds of a call."""
        return statistics.median(self.loop)

    @property
    def share(self) -> float:
        """The median of the requests per core, in percent of the calls per core in the loop."""
        pairs = zip(self.loop, self.served, strict=True)
        return statistics.median(100 * loop / served for loop, served in pairs)


def run(options: argparse.Namespace) -> int:
    """Measure each model, print the table and the verdict."""
    core = take_core()
    row = "{:<14}{:>10}{:>13}{:>15}{:>11}{:>22}"
    print(row.format("", "loop, ms", "served, ms", "req/s/core", "% of loop", "least..most"))
    measured = {}
    for case in cases():
        measured[case.name] = rounds = _measure(case, core, options)
        shares = [100 * a / b for a, b in zip(rounds.loop, rounds.served, strict=True)]
        served = statistics.median(rounds.served)
        cells = (f"{rounds.call * 1e3:.3f}", f"{served * 1e3:.3f}", f"{1 / served:.0f}")
        spread = f"{min(shares):.1f}..{max(shares):.1f}"
        print(row.format(case.name, *cells, f"{rounds.share:.1f}", spread), flush=True)
    return verdict(_claims(measured))


def _claims(measured: dict[str, Measured]) -> list[Claim]:
    claims = [
        at_least(f"{name}: requests per core, % of the bare loop's calls", rounds.share, SHARE)
        for name, rounds in measured.items()
        if rounds.call >= CLAIMED_FROM
    ]
    if not claims:
        raise BenchError(f"no model takes {CLAIMED_FROM * 1e3:.0f} ms on this machine")
    return claims


def _measure(case: Case, core: int, options: argparse.Namespace) -> Measured:
    server = obworker(case.predictor, "--workers", "1")
    files = {**server.files, **case.files, "loop.py": LOOP, "body": case.body}
    request = Exchange(case.body, None).request()
    measured = Measured()
    with (
        running(replace(server, files=files), request, [core]) as target,
        _looping(target.directory, core) as loop,
    ):
        exchange = Exchange(case.body, loop.answer)
        calls = max(FIRST_CALLS, int(options.seconds / loop.seconds_per_call(FIRST_CALLS)))
        _serve(target, exchange, calls, options)
        for _ in range(options.rounds):
            measured.loop.append(loop.seconds_per_call(calls))
            measured.served.append(_serve(target, exchange, calls, options))
    return measured


def _serve(
    target: Running, exchange: Exchange, requests: int, options: argparse.Namespace
) -> float:
    """Send the requests, and return the server's CPU seconds per request."""
    processes = target.processes()
    before = cpu_seconds(processes)
    load = Load(target.port, exchange, requests, 10 * options.seconds).run(options.connections)
    load.without_failures(target.name)
    return (cpu_seconds(processes) - before) / load.answered


class Loop:
    """A process that calls predict as often as it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.answer = json.loads(self._read())

    def seconds_per_call(self, count: int) -> float:
        """Return the mean CPU seconds of so many calls."""
        assert self._process.stdin
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return float(self._read()) / count

    def _read(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the bare loop ended; what it said is above")
        return line


@contextmanager
def _looping(directory: Path, core: int) -> Iterator[Loop]:
    """Run the loop in the directory of a server, on one core, while the block runs."""
    with subprocess.Popen(
        ["taskset", "--cpu-list", str(core), sys.executable, "loop.py"],
        cwd=directory,
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Loop(process)
        finally:
            process.kill()
