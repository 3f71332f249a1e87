"""Many reloads under clients that keep their connections and are mostly idle."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from benchmarks import options as types
from benchmarks import queueing, work
from benchmarks.claims import Claim, counted, verdict
from benchmarks.openloop import connected
from benchmarks.outcomes import Arrival, failures, latency_ms
from benchmarks.servers import obworker, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONNECTIONS = 64
RATE = 0.5
RELOAD_SECONDS = 60.0
PATIENCE = 10.0


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "reload",
        help="connections closed and requests failed over many reloads",
        description=f"{CONNECTIONS} keep-alive connections send {RATE:g} requests a second each, "
        "at random, while `obworker reload --wait` runs again and again.",
    )
    parser.add_argument("--reloads", type=types.count, default=200)
    parser.add_argument("--workers", type=types.count, default=2, help="of obworker")
    parser.set_defaults(run=run)


class Reloads:
    """Reloads one after the other in a thread, until there were enough or one has failed."""

    def __init__(self, control: Path, count: int) -> None:
        self.seconds: list[float] = []
        self.error = ""
        self._command = ("-m", "obworker", "reload", "--wait", "--control-socket", str(control))
        self._count = count
        self._thread = threading.Thread(target=self._run, daemon=True)

    def arrivals(self) -> Iterator[Arrival]:
        """Start the thread, and yield arrivals until it has ended."""
        self._thread.start()
        message = work.message(0.0)
        for instant in queueing.poisson(RATE * CONNECTIONS, Random(1)):
            if not self._thread.is_alive():
                return
            yield Arrival(instant, message)

    def _run(self) -> None:
        while len(self.seconds) < self._count and not self.error:
            began = time.monotonic()
            self.error = self._reload()
            self.seconds.append(time.monotonic() - began)

    def _reload(self) -> str:
        """Reload, and return what went wrong; the text is empty if nothing did."""
        command = [sys.executable, *self._command]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=RELOAD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no end within {RELOAD_SECONDS:.0f} s"
        if not ended.returncode:
            return ""
        return ended.stderr.strip() or f"it ended with {ended.returncode}"


def run(options: argparse.Namespace) -> int:
    """Reload many times, and print what the clients saw."""
    server = obworker(
        work.PREDICTOR, "--workers", str(options.workers), "--control-socket", "control"
    )
    ready = b"".join(work.message(0.0))
    with running(server, ready) as target, connected(target.port, CONNECTIONS) as client:
        reloads = Reloads(target.directory / "control", options.reloads)
        outcomes = client.run(reloads.arrivals(), PATIENCE)
    failed, closed = failures(outcomes), client.closed
    print(
        f"{len(reloads.seconds)} reloads in {sum(reloads.seconds):.0f} s, {len(outcomes)} requests,"
        f" p50 {latency_ms(outcomes, 50):.1f} ms, slowest {latency_ms(outcomes, 100):.0f} ms"
    )
    return verdict(
        [
            Claim("all reloads succeeded", reloads.error, not reloads.error),
            Claim("no request failed", counted(failed), not failed),
            Claim("no connection closed by the server", counted(closed), not closed),
        ]
    )
