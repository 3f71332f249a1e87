"""What the admin process answers, on a real server."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from boards import fill, scoreboard
from harness import Reply, request
from wire import Running

from obworker.admin import process
from obworker.admin.application import Admin
from obworker.settings import Settings
from obworker.supervisor.memory import Usage
from obworker.supervisor.scoreboard import Scoreboard, State


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    with scoreboard(1) as board:
        yield board


@pytest.fixture
def port(board: Scoreboard) -> Iterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    number: int = listener.getsockname()[1]
    running = Running(Admin(board), listener, Settings(access_log=False))
    yield number
    running.stop()


def shown(reply: Reply) -> dict[str, object]:
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    body = json.loads(reply.body)
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize("path", ["/readyz", "/healthz"])
def test_the_status_says_whether_it_is_ready(port: int, board: Scoreboard, path: str) -> None:
    reply = request(port, "GET", path)
    assert (reply.status, shown(reply)["ready"]) == (503, False)
    fill(board, 0, 0, State.IDLE, pid=7)
    reply = request(port, "GET", path)
    assert (reply.status, shown(reply)["ready"]) == (200, True)


def test_it_lives_whatever_the_workers_do(port: int) -> None:
    reply = request(port, "GET", "/livez")
    assert (reply.status, shown(reply)) == (200, {"status": "alive"})


def test_the_root_lists_what_there_is(port: int) -> None:
    reply = request(port, "GET", "/")
    assert (reply.status, set(shown(reply))) == (200, {"/livez", "/readyz", "/healthz", "/metrics"})


def test_metrics_have_the_memory_of_the_tree_below_the_master(port: int, board: Scoreboard) -> None:
    board.header.master_pid = os.getpid()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE):
        reply = request(port, "GET", "/metrics")
    assert reply.headers["cache-control"] == "no-store"
    # this process is both master and admin; nobody has said what the other one is
    found = re.findall(rb'^obworker_memory_pss_bytes{process="(\w+)"', reply.body, re.MULTILINE)
    assert sorted(found) == [b"admin", b"other"]


class Slow(Admin):
    """Takes as long to measure as the test wants."""

    def __init__(self, board: Scoreboard) -> None:
        super().__init__(board)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def _measure(self) -> Usage:
        self.begun.set()
        assert self.go_on.wait(10)
        return {}


@contextmanager
def serving(application: Admin) -> Iterator[tuple[int, Callable[[], None]]]:
    """Serve as the admin process does; yield the port, and what ends it and waits for that."""
    listener, (master, ours) = socket.create_server(("127.0.0.1", 0)), socket.socketpair()
    thread = threading.Thread(target=process._serve, args=(application, listener, ours))
    thread.start()

    def end() -> None:
        master.close()
        thread.join(10)
        assert not thread.is_alive()

    yield listener.getsockname()[1], end
    end()
    listener.close()
    ours.close()


def test_a_probe_does_not_wait_while_memory_is_read(board: Scoreboard) -> None:
    slow = Slow(board)
    with serving(slow) as (port, _), ThreadPoolExecutor(1) as pool:
        scrape = pool.submit(request, port, "GET", "/metrics")
        assert slow.begun.wait(10)
        assert request(port, "GET", "/livez").status == 200
        assert not scrape.done()
        slow.go_on.set()
        assert scrape.result().status == 200


def test_the_undertaker_does_not_wait_while_memory_is_read(board: Scoreboard) -> None:
    slow = Slow(board)
    with serving(slow) as (port, end):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
        assert slow.begun.wait(10)
        end()
        slow.go_on.set()
        client.close()


def test_head_is_get_without_the_body(port: int, board: Scoreboard) -> None:
    fill(board, 0, 0, State.IDLE, pid=7)
    get, head = (request(port, method, "/readyz") for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


def test_an_unknown_path_is_404_and_names_the_known(port: int) -> None:
    reply = request(port, "GET", "/health")
    expected = {"error": "Not Found: there are /livez, /readyz, /healthz, /metrics"}
    assert (reply.status, shown(reply)) == (404, expected)


def test_another_method_is_405_with_the_allowed(port: int) -> None:
    reply = request(port, "POST", "/readyz")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert shown(reply) == {"error": "Method Not Allowed: POST"}
