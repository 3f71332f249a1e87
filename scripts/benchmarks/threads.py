"""The cost of spinning native threads when there are more of them than cores."""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks import options as types
from benchmarks.claims import at_most, verdict
from benchmarks.load import Exchange, send_all
from benchmarks.processes import cpu_seconds
from benchmarks.servers import obworker, running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WORKERS = 4
WARM_UP = 8
MOST_RATIO = 0.8
REQUEST = Exchange(b"{}", {"ok": True})

PREDICTOR = """\
import time

import numpy
{imports}

class Predictor:
    def __init__(self):
        {init}

    def predict(self, json):
        for _ in range(10):
            {call}
            time.sleep(0.002)
        return {{"ok": True}}
"""
LIBRARIES = {
    "OpenBLAS, numpy": PREDICTOR.format(
        imports="",
        init="self.matrix = numpy.ones((300, 300), numpy.float32)",
        call="self.matrix @ self.matrix",
    ),
    "OpenMP, scikit-learn": PREDICTOR.format(
        imports="from sklearn.ensemble import HistGradientBoostingClassifier",
        init="self.rows = numpy.random.default_rng(0).normal(size=(200, 20))\n"
        "        model = HistGradientBoostingClassifier(max_iter=30)\n"
        "        self.model = model.fit(self.rows, self.rows[:, 0] > 0)",
        call="self.model.predict(self.rows)",
    ),
}


@dataclass(frozen=True)
class Measured:
    """The medians of the rounds."""

    cpu: float
    rate: float


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "threads",
        help="native threads of many workers: shared, asleep, or spinning",
        description=f"{WORKERS} workers call a library 10 times a request, 2 ms apart: with their "
        "share of the cores; with a thread for every core in each worker; and with those spinning "
        "as libraries do by default.",
    )
    parser.add_argument("--rounds", type=types.count, default=5, help="rounds after one warm-up")
    parser.add_argument("--requests", type=types.count, default=40, help="requests of a round")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure each library in each way, print the table and the verdict."""
    row = "{:<22}{:<22}{:>14}{:>10}"
    print(row.format("", "threads", "CPU ms/request", "req/s"))
    claims = []
    for library, predictor in LIBRARIES.items():
        found = {}
        for way, variables in _ways(len(os.sched_getaffinity(0))).items():
            found[way] = measured = _measure(predictor, variables, options)
            cells = (f"{measured.cpu * 1e3:.1f}", f"{measured.rate:.1f}")
            print(row.format(library, way, *cells), flush=True)
        _, asleep, spinning = found.values()
        text = f"{library}: CPU of threads asleep / spinning"
        claims.append(at_most(text, asleep.cpu / spinning.cpu, MOST_RATIO))
    return verdict(claims)


def _ways(cores: int) -> dict[str, dict[str, str]]:
    """Return the environment of each way; the last way spells out the libraries' own defaults."""
    many = {"OMP_NUM_THREADS": f"{cores}"}
    spinning = many | {"GOMP_SPINCOUNT": "300000", "OPENBLAS_THREAD_TIMEOUT": "0"}
    return {"the share": {}, f"{cores} each, asleep": many, f"{cores} each, spinning": spinning}


def _measure(predictor: str, variables: Mapping[str, str], options: argparse.Namespace) -> Measured:
    server = obworker(predictor, "--workers", f"{WORKERS}")
    dotenv = "".join(f"{name}={value}\n" for name, value in variables.items())
    server = replace(server, files={**server.files, ".env": dotenv})
    with running(server, REQUEST.request()) as target:
        workers = target.workers(WORKERS)
        send_all(target.port, REQUEST, WARM_UP, WORKERS)
        rounds = []
        for _ in range(options.rounds):
            before = cpu_seconds(workers)
            wall = send_all(target.port, REQUEST, options.requests, WORKERS)
            rounds.append((cpu_seconds(workers) - before, wall))
    cpu, wall = (statistics.median(column) for column in zip(*rounds, strict=True))
    return Measured(cpu / options.requests, options.requests / wall)
