"""The command line of scripts/bench, with a subcommand for each benchmark."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from benchmarks import (
    batch,
    echo,
    memory,
    onnx,
    overload,
    parts,
    reload,
    slow,
    soak,
    stream,
    tail,
    threads,
)
from benchmarks.processes import unwind_when_killed
from benchmarks.servers import BenchError


def main() -> int:
    """Run the chosen benchmark and return the exit status."""
    options = command_line().parse_args()
    unwind_when_killed()
    try:
        return int(options.run(options) or 0)
    except (BenchError, TimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Benchmarks of obworker.")
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")
    add_parser = partial(
        commands.add_parser, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for benchmark in (
        *(echo, parts, onnx, memory, batch, tail),
        *(overload, slow, soak, stream, reload, threads),
    ):
        benchmark.add_command(add_parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
