"""Workers that do not come back: what their clients get, what the log says, and who comes next."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from clients import Client, Outcome, in_parallel
from harness import Serve, Server, eventually

PREDICTOR = """
import ctypes, os, signal, time
import obworker

class Predictor:
    def predict(self, params):
        open("begun", "w").close()
        what = params.get("do", "answer")
        if what == "spin":
            while True:
                pass
        elif what == "hold the lock":
            # what computes is not interrupted by a signal, as sleep(3) is
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ctypes.PyDLL(None).sleep(600)
        elif what == "hold for a while":
            open("held", "w").close()
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ctypes.PyDLL(None).usleep(2500000)
        elif what == "sleep":
            time.sleep(600)
        elif what == "wait":
            open("waits", "w").close()
            time.sleep(1)
        elif what == "extend":
            for _ in range(6):
                obworker.extend_deadline(1)
                time.sleep(0.3)
        return os.getpid()
"""
# --timeout, then 1 s for its own answer, 1 s for the stacks, 5 s to die of SIGABRT, and a new one
MOST = 1 + 8

Start = Callable[..., Server]


@pytest.fixture
def start(serve: Serve, model: Path) -> Start:
    """Start the predictor above, with a timeout of a second."""
    (model / "predictor.py").write_text(PREDICTOR)

    def start_ready(*argv: str, workers: int = 1) -> Server:
        server = serve("--timeout", "1", "--workers", str(workers), *argv, str(model))
        return server.wait_until_ready(workers)

    return start_ready


@contextmanager
def replaced(server: Server, slot: int = 0, within: float = MOST) -> Iterator[None]:
    """Check that a worker is replaced, by one that answers, in time."""
    old = server.workers()[slot].pid
    began = time.monotonic()
    yield
    pattern = rf"worker {slot} .* ready in .*, pid (?!{old}\b)\d+"
    server.wait_for_log(pattern, within=began + within - time.monotonic())
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED
    eventually(lambda: old not in {p.pid for p in server.workers().values()}, MOST)


def post(server: Server, what: str) -> tuple[Outcome, str]:
    answer = Client(server.port, keep=False).post(f"/?do={what.replace(' ', '+')}")
    return answer.outcome, answer.text


@pytest.mark.parametrize("what", ["spin", "sleep"])
def test_a_predict_that_lets_others_run_is_answered_504_by_its_worker(
    start: Start, what: str
) -> None:
    server = start()
    with replaced(server):
        outcome, text = post(server, what)
        assert (outcome, text[:3]) == (Outcome.FAILED, "504")
    assert re.search(r"predictor\.py\", line \d+ in predict", server.log())
    assert f"POST /?do={what} HTTP/1.1 took over 1." in server.log()


def test_a_predict_that_holds_the_interpreters_lock_is_ended_by_the_master(start: Start) -> None:
    server = start()
    with replaced(server):
        assert post(server, "hold the lock")[0] is Outcome.LOST
    log = server.log()
    late = (
        r"worker 0 .*: is past the deadline of POST /\?do=hold\+the\+lock HTTP/1\.1"
        r" \(\d\.\d s, request \S+\)"
    )
    assert re.search(late, log), log
    assert re.search(r"predictor\.py\", line \d+ in predict", log)
    assert "was killed by SIGABRT" in log


def test_a_worker_that_is_stopped_in_a_request_is_ended_by_the_master(
    start: Start, model: Path
) -> None:
    server = start()
    with replaced(server):
        worker = server.workers()[0]
        client = Client(server.port, keep=False)
        outcomes: list[Outcome] = []
        thread = Thread(target=lambda: outcomes.append(client.post("/?do=sleep").outcome))
        thread.start()
        eventually((model / "begun").exists)
        worker.suspend()
        thread.join(MOST)
        assert outcomes == [Outcome.FAILED]
    assert re.search(r"predictor\.py\", line \d+ in predict", server.log())


def test_a_worker_that_is_stopped_while_it_has_nothing_to_do_is_replaced(start: Start) -> None:
    server = start()
    with replaced(server):
        server.workers()[0].suspend()
    assert "its event loop stands still" in server.log()


def test_a_deadline_can_be_extended_from_within(start: Start) -> None:
    server = start()
    pid = server.workers()[0].pid
    assert post(server, "extend") == (Outcome.ANSWERED, str(pid))


def test_without_a_timeout_nothing_is_ended(start: Start, model: Path) -> None:
    server = start("--timeout", "0")
    worker = server.workers()[0]
    client = Client(server.port, keep=False)
    thread = Thread(target=lambda: client.post("/?do=sleep"))
    thread.start()
    eventually((model / "begun").exists)
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > 3, 10, "turns of everybody's loop")
    assert server.workers()[0].pid == worker.pid
    server.signal(signal.SIGINT)
    thread.join(10)
    assert server.wait() == 0


def test_a_master_that_was_stopped_takes_nobody_for_late(start: Start) -> None:
    server = start(workers=2)
    before = {process.pid for process in server.workers().values()}
    server.signal(signal.SIGSTOP)
    for process in server.workers().values():
        process.suspend()
    stopped = time.monotonic()
    eventually(lambda: time.monotonic() - stopped > 7, 10, "a while")
    server.signal(signal.SIGCONT)
    for process in server.workers().values():
        process.resume()
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED
    again = time.monotonic()
    eventually(lambda: time.monotonic() - again > 3, 10, "a few rounds")
    assert {process.pid for process in server.workers().values()} == before
    assert "ERROR" not in server.log()


def test_requests_that_come_while_nothing_can_be_read_are_answered_in_a_stop(
    start: Start, model: Path
) -> None:
    server = start("--timeout", "30")
    busy, next_, *idle = [Client(server.port, keep=True) for _ in range(6)]
    for client in (busy, next_, *idle):
        assert client.post().outcome is Outcome.ANSWERED
    waits = Thread(target=busy.post, args=("/?do=wait",))
    waits.start()
    eventually((model / "waits").exists, 5)
    holds = Thread(target=next_.post, args=("/?do=hold+for+a+while",))
    holds.start()
    sent = time.monotonic()
    eventually(lambda: time.monotonic() - sent > 0.2, 1, "time for the worker to read that")
    server.signal(signal.SIGTERM)
    eventually((model / "held").exists, 5)
    results = in_parallel([client.post for client in idle])
    assert {result.outcome for result in results} == {Outcome.ANSWERED}
    waits.join()
    holds.join()
    assert server.wait() == 0
