"""What the benchmarks compute: arrivals, the ideal queue, percentiles, and when latency counts."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random

import pytest
from answering import answering
from benchmarks import batch, memory, memory_servers, onnx, options, queueing, tail, work
from benchmarks.__main__ import command_line
from benchmarks.openloop import connected
from benchmarks.outcomes import UNANSWERED, Arrival, Outcome, failures
from benchmarks.overload import WINDOW, recovery_seconds
from benchmarks.servers import BenchError, Running, Server, installed
from benchmarks.slow_clients import KINDS, slow_clients
from benchmarks.tail_servers import LOADED
from harness import ROOT, eventually

PREDICT_SECONDS = 0.05
PERFORMANCE = ROOT / "docs" / "performance.md"


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)]
)
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    percent: float, expected: float
) -> None:
    values = list(range(100, 0, -1))

    assert queueing.percentile(values, percent) == expected


def test_no_values_have_no_percentile() -> None:
    assert math.isnan(queueing.percentile([], 99))


@pytest.mark.parametrize(
    ("servers", "jobs", "latencies"),
    [
        (1, [(0, 2), (1, 2), (5, 2)], [2, 3, 2]),
        (2, [(0, 2), (1, 2), (1, 2), (1, 2)], [2, 2, 3, 4]),
        (2, [(0, 9), (1, 1), (1, 1), (1, 1)], [9, 1, 2, 3]),
    ],
    ids=["one server", "the first free server takes the next", "a long job holds one server"],
)
def test_the_ideal_queue_serves_in_order_of_arrival(
    servers: int, jobs: list[tuple[float, float]], latencies: list[float]
) -> None:
    assert queueing.ideal_latencies(jobs, servers) == latencies


def test_the_ideal_queue_waits_as_long_as_theory_says() -> None:
    # M/D/1 (Pollaczek-Khinchine): the mean wait is load / (2 * (1 - load)) service times.
    jobs = itertools.islice(
        zip(queueing.poisson(0.7, Random(1)), queueing.fixed(1.0), strict=False), 50_000
    )

    mean = statistics.fmean(queueing.ideal_latencies(jobs, servers=1))

    assert mean == pytest.approx(1 + 0.7 / (2 * 0.3), rel=0.05)


def test_arrivals_have_the_rate_that_was_asked_for() -> None:
    arrivals = list(work.steady(rate=200, seconds=50, service=0.02, seed=1))

    assert len(arrivals) == pytest.approx(10_000, rel=0.05)
    assert arrivals == list(work.steady(rate=200, seconds=50, service=0.02, seed=1))


def test_lognormal_services_have_the_mean_that_was_asked_for() -> None:
    services = itertools.islice(queueing.lognormal(0.02, Random(1)), 50_000)

    assert statistics.fmean(services) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("padding", [b"", b"x" * 1000])
def test_a_request_says_its_length_and_how_long_to_sleep(padding: bytes) -> None:
    head, _, body = b"".join(work.message(0.0125, "/predict", padding)).partition(b"\r\n\r\n")

    assert head.startswith(b"POST /predict HTTP/1.1\r\n")
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert json.loads(body) == {"seconds": 0.0125, "pad": padding.decode()}


def answered(at: float, latency: float) -> Outcome:
    return Outcome(at, (), lag=0.0, done=at + latency, status=200)


def test_recovery_takes_until_the_median_of_a_window_is_normal() -> None:
    slow = [answered(n * WINDOW / 10, 1.0) for n in range(28)]
    normal = [answered(n * WINDOW / 10, 0.02) for n in range(28, 100)]

    assert recovery_seconds(slow + normal, normal=0.02) == pytest.approx(3 * WINDOW)
    assert recovery_seconds(normal, normal=0.02) == 0


def test_recovery_without_answers_is_never() -> None:
    assert recovery_seconds([], normal=0.02) == math.inf


def test_recovery_to_what_was_no_answer_is_never() -> None:
    assert recovery_seconds([answered(0.0, 0.02)], normal=math.inf) == math.inf


def test_slow_clients_come_within_their_time_and_again_when_they_are_cut_off() -> None:
    came: list[float] = []

    def cut_off() -> None:
        with suppress(OSError):  # the listener is shut down
            while True:
                client, _ = listener.accept()
                came.append(time.monotonic())
                client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=cut_off, daemon=True)
        thread.start()
        began = time.monotonic()
        with slow_clients(listener.getsockname()[1], 6, seconds=0.6) as course:
            eventually(lambda: len(came) >= 12)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert came[5] - began >= 0.5
    assert course.cut.total() >= 6
    assert course.cut.keys() == set(KINDS)


@pytest.mark.parametrize(
    ("text", "expected"), [("512", 512), ("1MiB", 1 << 20), ("10GB", 10 * 10**9)]
)
def test_a_size_may_have_a_unit(text: str, expected: int) -> None:
    assert options.size(text) == expected


COMMANDS = re.findall(r"scripts/bench ((?:--?\w|\w)[^`]*?)[`\n]", PERFORMANCE.read_text())


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_the_command_line_takes_what_the_documentation_says(command: str) -> None:
    words = ["70" if word == "N" else word for word in command.split()]
    assert callable(command_line().parse_args(words).run)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x"])
def test_a_time_is_more_than_none(text: str) -> None:
    with pytest.raises(ValueError, match=text if text == "x" else f"^{text}$"):
        options.seconds(text)


def test_a_delay_may_be_none() -> None:
    assert [options.delay(text) for text in ("0", "2.5")] == [0, 2.5]
    with pytest.raises(ValueError, match="-1"):
        options.delay("-1")


def test_where_no_server_that_was_asked_for_is_installed_nothing_was_measured() -> None:
    """It printed an empty table, and all was well."""
    missing = Server("none", "there-is-no-such-package", ("none",), {})
    with pytest.raises(BenchError, match="nothing is left"):
        installed([missing], {"none"})


def test_nobody_connects_before_all_workers_have_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their connections stayed with those that had: gunicorn's p99 was ten times what it is."""
    monkeypatch.setattr(tail, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(tail, "START_SECONDS", 0.2)
    target = Running("four", 1, os.getpid(), tmp_path)
    (tmp_path / LOADED).write_text("...")
    with pytest.raises(BenchError, match="four: 4 workers: not within"):
        tail._wait_until_loaded(target)
    (tmp_path / LOADED).write_text("....")
    tail._wait_until_loaded(target)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n", "was left with"),
        (b'HTTP/1.1 500 Oh\r\n\r\n{"error": 1}', "was answered"),
    ],
    ids=["cut off", "refused"],
)
def test_a_client_that_is_alone_needs_whole_answers(sent: bytes, why: str) -> None:
    """It read on for ever where the connection had ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(BenchError, match=why):
            batch._receive(ours)


class Sleeper(BaseHTTPRequestHandler):
    """Sleeps before it answers, and closes after /last."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(PREDICT_SECONDS)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        if self.path == "/last":
            self.send_header("Connection", "close")
        with suppress(ConnectionError):  # one that was left
            self.end_headers()
            self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with answering(Sleeper) as port:
        yield port


def test_latency_counts_from_when_a_request_was_due(port: int) -> None:
    message = work.message(0.0, padding=b"x" * 1_000_000)

    with connected(port, connections=1) as client:
        outcomes = client.run([Arrival(0.0, message), Arrival(0.0, message)], patience=10)

    assert [outcome.status for outcome in outcomes] == [200, 200]
    assert outcomes[1].latency >= 2 * PREDICT_SECONDS
    assert not client.closed


def test_a_connection_that_the_answer_closes_is_counted_and_opened_again(port: int) -> None:
    arrivals = [Arrival(0.0, work.message(0.0, "/last")), Arrival(0.1, work.message(0.0))]

    with connected(port, connections=1) as client:
        outcomes = client.run(arrivals, patience=10)

    assert [outcome.status for outcome in outcomes] == [200, 200]
    assert client.closed == {"by its answer": 1}


def test_what_is_unanswered_when_patience_ends_is_a_failure_of_infinite_latency(port: int) -> None:
    with connected(port, connections=1) as client:
        outcomes = client.run([Arrival(0.0, work.message(0.0))], patience=0)

    assert failures(outcomes) == {UNANSWERED: 1}
    assert outcomes[0].latency == math.inf


def measured(loop: list[float], served: list[float]) -> onnx.Measured:
    return onnx.Measured(loop=loop, served=served)


def test_the_share_of_a_model_is_of_rounds_that_stood_side_by_side() -> None:
    """A machine that is twice as slow for a while slows the loop and the server alike."""
    assert measured([0.005, 0.010, 0.005], [0.005, 0.010, 0.0075]).share == pytest.approx(100)


def test_only_models_that_take_long_enough_are_claimed_for() -> None:
    models = {
        "quick": measured([0.001], [0.002]),
        "slow": measured([0.010], [0.0125]),
        "slower": measured([0.020], [0.020]),
    }
    assert [claim.holds for claim in onnx._claims(models)] == [False, True]


def test_a_machine_on_which_no_model_takes_long_proves_nothing() -> None:
    with pytest.raises(BenchError, match="no model takes 5 ms"):
        onnx._claims({"quick": measured([0.001], [0.001])})


def test_copies_are_what_further_layers_add() -> None:
    layers = (memory.LAYERS - 1) * memory_servers.LAYER_BYTES
    small, shared, own = (
        memory.Found(10**8 + n * layers, 10**8 + 2 * n * layers, []) for n in (0, 1, 4)
    )
    assert shared.copies(small) == (1, 2)
    assert own.copies(small) == (4, 8)
