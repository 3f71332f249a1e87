"""The probes in front of a worker's application."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from wsgiref.validate import validator

import pytest
from boards import fill, scoreboard
from werkzeug.test import Client, TestResponse

from obworker.supervisor.probes import answers, in_front
from obworker.supervisor.scoreboard import Phase, State


def predict(_environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"predicted"]


def get(application: Any, path: str, method: str = "GET") -> TestResponse:
    return Client(validator(application)).open(path, method=method, buffered=True)


def test_the_probes_are_answered_from_the_scoreboard() -> None:
    with scoreboard(2) as board:
        probes = in_front(predict, board)
        assert get(probes, "/livez").status_code == 200
        reply = get(probes, "/readyz")
        assert reply.status_code == 503
        reason = "0 of 2 workers ready, 1 needed"
        assert reply.json == {"status": "unready", "ready": False, "reason": reason}
        fill(board, 0, 0, State.BUSY)
        reply = get(probes, "/readyz")
        assert reply.status_code == 200
        assert reply.json == {"status": "degraded", "ready": True, "reason": None}
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.content_length == len(reply.data)
        board.header.phase = Phase.STOPPING
        assert get(probes, "/readyz").status_code == 503


HUNG = {"status": "hung", "reason": "the master has stood still for 61 s"}


@pytest.mark.parametrize(
    ("silent", "status", "body"),
    [(0.0, 200, {"status": "alive"}), (50.0, 200, {"status": "alive"}), (61.0, 503, HUNG)],
)
def test_a_master_that_hangs_for_good_is_not_alive(
    silent: float, status: int, body: dict[str, str]
) -> None:
    with scoreboard(1, beat=time.monotonic() - silent) as board:
        fill(board, 0, 0, State.IDLE)
        reply = get(in_front(predict, board), "/livez")
    assert (reply.status_code, reply.json) == (status, body)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/livez", True),
        ("HEAD", "/readyz", True),
        ("POST", "/livez", False),
        ("GET", "/", False),
        ("POST", "/", False),
        ("GET", "/healthz", False),
        ("GET", "/livez/", False),
    ],
)
def test_everything_else_is_the_applications(method: str, path: str, expected: bool) -> None:
    assert answers(method, path) is expected
    with scoreboard(1) as board:
        reply = get(in_front(predict, board), path, method)
    assert (reply.content_type == "application/json") is expected
