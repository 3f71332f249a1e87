"""Where the time of a request goes: measures each part of its way alone, in one process."""

from __future__ import annotations

import asyncio
import io
import json
import queue
import tempfile
import threading
import time
import timeit
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from benchmarks import options as types
from benchmarks.echo_servers import BODY, PREDICTOR
from benchmarks.load import Exchange
from obworker.http import response
from obworker.http.environ import base_environ, make_environ
from obworker.http.parser import Limits, Request, RequestParser
from obworker.predictor.application import create

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

RAW = Exchange(json.dumps(BODY).encode(), BODY).request()
REPEATS = 5


def ignore(*_: object) -> Callable[[bytes], None]:
    """Take the head of a response."""
    return lambda _: None


class Collector:
    """Takes what a parser finds."""

    request: Request

    def request_received(self, request: Request) -> None:
        """Keep the last request."""
        self.request = request

    def continue_expected(self) -> None:
        """Do nothing."""


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command ``parts``."""
    parser = add_parser("parts", help="microseconds of each part of an echo request's way")
    parser.add_argument(
        "--requests", type=types.count, default=20000, help="requests per repetition"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the least of a few repetitions for each part."""
    print("us/request")
    for part, work in _parts().items():
        least = min(timeit.repeat(work, number=options.requests, repeat=REPEATS))
        print(f"{least / options.requests * 1e6:10.1f}  {part}")
    least = min(uvloop.run(hand_over(options.requests)) for _ in range(REPEATS))
    print(f"{least / options.requests * 1e6:10.1f}  hand over to an executor thread and back (CPU)")


def _parts() -> dict[str, Callable[[], object]]:
    collector = Collector()
    parser = RequestParser(Limits(), collector)
    parser.feed(RAW)
    base = base_environ(("127.0.0.1", 8000), ("127.0.0.1", 40000))
    headers = [("Content-Type", "application/json"), ("Content-Length", "31")]
    with tempfile.TemporaryDirectory() as name:
        Path(name, "predictor.py").write_text(PREDICTOR)
        application = create(name)
    # Our own server adds this; without it the application would make an id for the request.
    ours = {"HTTP_X_REQUEST_ID": "0", "obworker.extend_deadline": ignore}
    environ = make_environ(base, collector.request) | ours
    body = collector.request.body
    assert isinstance(body, bytes)

    def head() -> object:
        opening, length = response.opening("200 OK", headers)
        return response.head(opening, length=length, keep_alive=True, version="1.1", date=b"now")

    return {
        "parse the request": lambda: parser.feed(RAW),
        "make the environ": lambda: make_environ(base, collector.request),
        "call the application": lambda: application(
            environ | {"wsgi.input": io.BytesIO(body)}, ignore
        ),
        "write the head": head,
    }


async def hand_over(count: int) -> float:
    """Return the CPU seconds of handing `count` jobs to another thread and back, one at a time."""
    loop = asyncio.get_running_loop()
    jobs: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()

    def execute() -> None:
        while (job := jobs.get()) is not None:
            loop.call_soon_threadsafe(job.set_result, None)

    threading.Thread(target=execute, daemon=True).start()
    began = time.process_time()
    for _ in range(count):
        job = loop.create_future()
        jobs.put(job)
        await job
    spent = time.process_time() - began
    jobs.put(None)
    return spent
