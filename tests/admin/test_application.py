"""What the admin process answers, on a real server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from boards import fill, scoreboard
from harness import Reply, request
from wire import Running

from obworker.admin.application import Admin
from obworker.settings import Settings
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
