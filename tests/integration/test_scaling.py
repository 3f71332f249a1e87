"""How many workers there are: more, fewer, none, and others in the place of those there are."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from clients import Client, Load, Outcome
from harness import Serve, Server, eventually

PREDICTOR = """
import os
class Predictor:
    def __init__(self):
        self.kept = []
    def predict(self, params):
        if params.get("keep"):
            self.kept.append(bytearray(b"x") * (int(params["keep"]) << 20))
        return os.getpid()
"""

# It takes every descriptor, for longer than from one look at the worker to the next.
GREEDY = """
import contextlib, os, resource, time
class Predictor:
    def predict(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(1))
        time.sleep(1.0)
        for descriptor in taken:
            os.close(descriptor)
"""


@pytest.fixture
def model(model: Path) -> Path:
    (model / "predictor.py").write_text(PREDICTOR)
    return model


def slots(server: Server) -> list[int]:
    return sorted(server.workers())


def test_workers_are_added_and_taken_away_from_the_end(serve: Serve, model: Path) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    load = Load(server.port, 4)
    server.signal(signal.SIGTTIN)
    eventually(lambda: slots(server) == [0, 1, 2])
    server.wait_until_ready(3)
    kept = server.workers()
    server.signal(signal.SIGTTOU)
    eventually(lambda: slots(server) == [0, 1])
    server.signal(signal.SIGTTOU)
    server.signal(signal.SIGTTOU)
    eventually(lambda: slots(server) == [0])
    assert server.workers()[0].pid == kept[0].pid
    results = load.stop()
    assert all(r.outcome in (Outcome.ANSWERED, Outcome.CLOSED) for r in results), results
    assert server.stop() == 0


def test_the_port_is_kept_while_there_is_no_worker(serve: Serve, model: Path) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    server.signal(signal.SIGWINCH)
    eventually(lambda: slots(server) == [])
    server.signal(signal.SIGTTIN)
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED
    assert slots(server) == [0]
    server.signal(signal.SIGWINCH)
    eventually(lambda: slots(server) == [])
    server.signal(signal.SIGHUP)
    eventually(lambda: slots(server) == [0])
    assert server.stop() == 0


def test_workers_are_recycled_after_so_many_requests_and_nobody_notices(
    serve: Serve, model: Path
) -> None:
    server = serve("--workers", "2", "--max-requests", "100", "--no-access-log", str(model))
    server.wait_until_ready(2)
    load = Load(server.port, 6)
    server.wait_until_ready(8)
    results = load.stop()
    bad = [r for r in results if r.outcome not in (Outcome.ANSWERED, Outcome.CLOSED)]
    assert bad == []
    counts = [int(n) for n in re.findall(r"has served (\d+) requests", server.log())]
    assert len(counts) >= 6
    assert min(counts) >= 100
    assert "ERROR" not in server.log()


def test_a_worker_that_holds_too_much_memory_is_replaced(serve: Serve, model: Path) -> None:
    server = serve("--max-worker-memory", "200MiB", str(model)).wait_until_ready()
    old = server.workers()[0].pid
    assert Client(server.port, keep=False).post("/?keep=300").text == str(old)
    server.wait_for_log(r"worker 0: holds \d+ MiB, more than 200 MiB; replacing it", within=20)
    server.wait_until_ready(2)
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED
    eventually(lambda: server.workers()[0].pid != old)


def test_one_that_had_no_descriptor_for_a_while_is_recycled_all_the_same(
    serve: Serve, model: Path
) -> None:
    """It looked at its memory, which failed, and never looked again."""
    (model / "predictor.py").write_text(GREEDY)
    server = serve("--max-requests", "2", "--max-requests-jitter", "0", str(model))
    server.wait_until_ready()
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED
    server.wait_for_log(r"worker 0: has served \d+ requests; replacing it", within=20)


def test_a_worker_that_is_told_to_stop_is_replaced_before_it_has_gone(
    serve: Serve, model: Path
) -> None:
    server = serve(str(model)).wait_until_ready()
    load = Load(server.port, 4)
    eventually(lambda: len(load.results) > 20)
    server.workers()[0].terminate()
    server.wait_until_ready(2)
    eventually(lambda: load.results[-1].outcome is Outcome.ANSWERED)
    results = load.stop()
    assert all(r.outcome in (Outcome.ANSWERED, Outcome.CLOSED) for r in results), results
    assert "was told to stop by SIGTERM; replacing it" in server.log()
