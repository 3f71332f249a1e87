"""The command line of scripts/chaos."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random, SystemRandom

from benchmarks.options import seconds
from benchmarks.processes import unwind_when_killed
from scorecards.servers import Options

from turmoil import certificate, report
from turmoil.modes import MODES
from turmoil.run import Run
from turmoil.served import Served

WORKERS = 3
TIMEOUT = 30.0
SHOWN_FAILURES = 20


def main() -> int:
    """Run the server, the clients and the operations; return 1 if anything went wrong."""
    options = _parser().parse_args()
    unwind_when_killed()
    seed = SystemRandom().getrandbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    # The path of a unix socket may have 107 bytes at most (unix(7)), and pytest's directories are
    # too deep for that.
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    failures: list[str] = []
    try:
        failures = _run(directory, options, seed)
    except KeyboardInterrupt:
        return 130
    finally:
        if not failures:
            shutil.rmtree(directory)
    if failures:
        print(f"the log is {directory / 'log'}", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description="Do everything to a server under load; see what is lost."
    )
    parser.add_argument("--seed", type=int, help="of the run that is to be repeated")
    parser.add_argument("--seconds", type=seconds, default=300.0)
    parser.add_argument("--mode", choices=MODES, default="plain", help="the kind of predictor")
    parser.add_argument("--kills", action="store_true", help="kill workers, too")
    parser.add_argument("--tls", action="store_true", help="serve and ask by TLS")
    return parser


def _start(directory: Path, options: argparse.Namespace, seed: int) -> Served:
    """Start a server; the seed decides whether and how often it recycles its workers."""
    mode = MODES[options.mode]
    limits = Options(
        workers=WORKERS,
        timeout=TIMEOUT,
        graceful_timeout=TIMEOUT,
        max_requests=Random(seed).choice([None, 200, 1000]),
        admin=True,
    )
    pem = certificate.make(directory) if options.tls else None
    server = Served.start(directory, limits, mode.code(), mode.options, pem)
    print(f"obworker {' '.join(server.command()[1:])}", flush=True)
    return server


def _run(directory: Path, options: argparse.Namespace, seed: int) -> list[str]:
    """Do one run, print its report, and return its failures."""
    server = _start(directory, options, seed)
    try:
        run = Run(server, MODES[options.mode], seed, kills=options.kills)
        losses = run.go(options.seconds)
    finally:
        server.family.kill()
    for line in report.lines(run.ledger, losses, run.footprints):
        print(line)
    failures = [*report.failures(run.ledger, losses), *run.findings]
    for failure in failures[:SHOWN_FAILURES]:
        print(failure, file=sys.stderr)
    print(f"{len(failures)} failures")
    return failures


if __name__ == "__main__":
    sys.exit(main())
