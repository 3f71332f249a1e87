"""Streams gigabytes to a slow reader who then leaves: memory, and when the generator is closed."""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import options as types
from benchmarks.claims import Claim, at_most, verdict
from benchmarks.load import Exchange
from benchmarks.processes import MIB, watched
from benchmarks.servers import BenchError, obworker, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

RATE = 1_000_000
CHUNK = 50_000
MOST_GROWTH = 20.0
MOST_CLOSE_SECONDS = 1.0
CLOSE_PATIENCE = 10.0
CLOSED = "closed"

# The monotonic clock is the same in all processes (clock_gettime(2)). The file is renamed once it
# is complete.
PREDICTOR = f"""\
import os
import time

BLOCK = bytes(100_000)


def blocks(size):
    made = 0
    try:
        while made < size:
            yield BLOCK
            made += len(BLOCK)
    finally:
        with open("closing", "w") as file:
            file.write(f"{{time.monotonic()}} {{made}}")
        os.rename("closing", "{CLOSED}")


class Predictor:
    def predict(self, json):
        return blocks(json["size"]) if json["size"] else "ready"
"""


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "stream",
        help="memory with a slow reader of a large stream, and what happens when it leaves",
        description=f"A generator of --size is read at {RATE / 1e6:.0f} MB/s, then the client "
        "leaves: what the worker's memory grew by, and when the generator's finally ran.",
    )
    parser.add_argument("--size", type=types.size, default="10GB", help="of the stream")
    parser.add_argument("--seconds", type=types.count, default=20, help="that the client reads")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read for a while, leave, and measure when the generator is closed."""
    server = obworker(PREDICTOR, "--workers", "1")
    with running(server, _request(0)) as target, watched(target.workers(1)) as memory:
        read, left_at = _read(target.port, options.size, options.seconds)
        closed_at, made = _closed(target.directory / CLOSED)
    print(f"read {read / 1e6:.1f} MB; the generator was {(made - read) / 1e6:.1f} MB ahead")
    whole = made >= options.size
    return verdict(
        [
            at_most("growth of the worker's memory, MiB", memory.growth() / MIB, MOST_GROWTH),
            at_most("generator closed after, s", closed_at - left_at, MOST_CLOSE_SECONDS),
            Claim(
                "the generator was paused, not run to its end", f"{made / 1e6:.1f} MB", not whole
            ),
        ]
    )


def _request(size: int) -> bytes:
    return Exchange(b'{"size":%d}' % size, None).request()


def _read(port: int, size: int, seconds: int) -> tuple[int, float]:
    """Read at a fixed rate for so long and close; return the bytes read and the instant."""
    read = 0
    with socket.create_connection(("127.0.0.1", port), timeout=CLOSE_PATIENCE) as client:
        client.sendall(_request(size))
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            if read > elapsed * RATE:
                time.sleep(CHUNK / RATE)
            elif arrived := client.recv(CHUNK):
                read += len(arrived)
            else:
                raise BenchError(f"the stream ended after {read} bytes")
    return read, time.monotonic()


def _closed(file: Path) -> tuple[float, int]:
    """Return when the generator was closed, and how many bytes it had produced."""
    wait_until(file.exists, CLOSE_PATIENCE, "the end of the generator")
    instant, made = file.read_text().split()
    return float(instant), int(made)
