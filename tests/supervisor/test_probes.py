"""The probes in front of a worker's application."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any
from wsgiref.validate import validator

import pytest
from boards import fill, scoreboard
from werkzeug.test import Client, TestResponse

from obworker.http.batches import Answers
from obworker.supervisor.probes import Probes, answers
from obworker.supervisor.scoreboard import Phase, State


class Application:
    """What is behind the probes."""

    most_calls: int | None = 3
    is_async = True
    batch_limits = None

    @staticmethod
    def check_health() -> None:
        """Be well."""

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"predicted"]

    def answer_all(self, environs: Sequence[Any]) -> Iterable[Answers]:
        return []


def get(application: Any, path: str, method: str = "GET") -> TestResponse:
    return Client(validator(application)).open(path, method=method, buffered=True)


def test_the_probes_are_answered_from_the_scoreboard() -> None:
    with scoreboard(2) as board:
        probes = Probes(Application(), board)
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
        reply = get(Probes(Application(), board), "/livez")
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
        reply = get(Probes(Application(), board), path, method)
    assert (reply.content_type == "application/json") is expected


def test_what_the_worker_asks_of_the_application_is_kept() -> None:
    application = Application()
    with scoreboard(1) as board:
        probes = Probes(application, board)
    assert (probes.most_calls, probes.is_async) == (3, True)
    assert probes.check_health is application.check_health
