"""The command line of scripts/fuzz."""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random, SystemRandom

import psutil
from benchmarks.options import count, seconds
from benchmarks.processes import unwind_when_killed
from scorecards import models
from scorecards.kinds import Obworker
from scorecards.servers import Options

from fuzzing.clients import Tally, send_broken, send_good

WORKERS = 2
# How many bytes a worker may grow after the first quarter of the run. Its caches of heads have a
# limit, which they reach after some seconds. A leak of a few bytes for each request exceeds this
# within minutes.
MOST_GROWTH = 3 << 20
SHOWN_FAILURES = 5

PREDICTOR = """
import os
from pathlib import Path

class Predictor:
    def __init__(self):
        with Path(__file__).with_name("notes").open("a") as notes:
            notes.write(f"0 ready {os.getpid()}\\n")

    def predict(self, data):
        return data
"""


def main() -> int:
    """Run the server and the clients; return 1 if the server did not stand it."""
    options = _parser().parse_args()
    unwind_when_killed()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model = Obworker.model_directory(directory)
        model.mkdir()
        models.write(model, "predictor.py", PREDICTOR)
        server = Obworker(directory, Options(workers=WORKERS))
        try:
            server.wait_until_ready()
            return _fuzz(server, options)
        finally:
            server.family.kill()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description="Send broken requests to a server; see whether it stands."
    )
    parser.add_argument("--seconds", type=seconds, default=600.0)
    parser.add_argument("--connections", type=count, default=8, help="that are open at once")
    parser.add_argument("--seed", type=int, help="of the run that is to be repeated")
    return parser


def _fuzz(server: Obworker, options: argparse.Namespace) -> int:
    seed = SystemRandom().getrandbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    workers = server.workers()
    tally = Tally()
    end = time.monotonic() + options.seconds
    clients = _start_clients(server.port, tally, end, options.connections, seed)
    time.sleep(options.seconds / 4)
    first = _memory(server.workers())
    for client in clients:
        client.join()
    if not (tally.connections and tally.good):
        tally.fail("nothing was sent: --seconds are too few")
    _look_for_harm(server, workers, first, tally)
    print(
        f"{tally.connections} connections, {tally.requests} broken requests, slowest end "
        f"{tally.slowest:.2f} s\n{tally.good} good requests, slowest {tally.slowest_good:.2f} s"
    )
    for failure in tally.failures[:SHOWN_FAILURES]:
        print(failure, file=sys.stderr)
    print(f"{len(tally.failures)} failures")
    return 1 if tally.failures else 0


def _start_clients(
    port: int, tally: Tally, end: float, connections: int, seed: int
) -> list[threading.Thread]:
    def is_over() -> bool:
        return time.monotonic() >= end

    clients = [threading.Thread(target=send_good, args=(port, tally, is_over), daemon=True)]
    for number in range(connections):
        arguments = (port, tally, is_over, Random(seed + number))
        clients.append(threading.Thread(target=send_broken, args=arguments, daemon=True))
    for client in clients:
        client.start()
    return clients


def _memory(pids: set[int]) -> dict[int, int]:
    return {pid: psutil.Process(pid).memory_info().rss for pid in sorted(pids)}


def _look_for_harm(
    server: Obworker, workers: set[int], first: dict[int, int], tally: Tally
) -> None:
    if server.workers() != workers:
        tally.fail(f"workers were {sorted(workers)}, and are {sorted(server.workers())}")
        return
    for pid, last in _memory(workers).items():
        print(f"worker {pid}: {first[pid] >> 10} KiB, {last >> 10} KiB at the end")
        if last > first[pid] + MOST_GROWTH:
            tally.fail(f"worker {pid} grew by {(last - first[pid]) >> 10} KiB")
    if "Traceback" in server.log():
        tally.fail(f"a traceback:\n{server.log()}")


if __name__ == "__main__":
    sys.exit(main())
