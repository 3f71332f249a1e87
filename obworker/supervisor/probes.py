"""Liveness and readiness over HTTP, answered from the scoreboard at once.

A worker has `Probes` in front of its application, so an orchestrator can ask on the port it knows.
There a worker answers on its event loop's thread, past the queue; but one whose predict holds the
interpreter's lock answers nobody, which is why the admin process answers the same questions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import orjson

from obworker.http.cycle import StartResponse
from obworker.http.environ import Environ
from obworker.supervisor import health, lapse
from obworker.supervisor.scoreboard import Scoreboard

if TYPE_CHECKING:
    from obworker.supervisor.blueprint import Predictions


class Answer(NamedTuple):
    """A status, a body that becomes JSON, and fields beyond the usual."""

    status: HTTPStatus
    body: health.Report
    fields: tuple[tuple[str, str], ...] = ()

    def send(self, start_response: StartResponse) -> list[bytes]:
        """Answer a request in WSGI's way; the server leaves the body out for HEAD."""
        body = orjson.dumps(self.body) + b"\n"
        fields = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            *self.fields,
        ]
        start_response(f"{self.status.value} {self.status.phrase}", fields)
        return [body]


def livez(board: Scoreboard) -> Answer:
    """Say that this process answers, and whether the master still does anything."""
    still = lapse.silence(board, time.monotonic())
    if still < lapse.HANGS_AFTER:
        return Answer(HTTPStatus.OK, {"status": "alive"})
    reason = f"the master has stood still for {still:.0f} s"
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "hung", "reason": reason})


def readyz(board: Scoreboard) -> Answer:
    """Say whether requests can be sent here, and why not."""
    stands = health.standing(board, lapse.look(board, time.monotonic()))
    return Answer(verdict(ready=stands.is_ready), health.summary(stands))


def verdict(*, ready: bool) -> HTTPStatus:
    """Return the status by which a probe understands the answer."""
    return HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE


PROBES = {"/livez": livez, "/readyz": readyz}
METHODS = ("GET", "HEAD")


def answers(method: str, path: str) -> bool:
    """Whether `Probes` answers a request itself, without the application."""
    return method in METHODS and path in PROBES


class Probes:
    """Answers the probes, and passes everything else on to `application`."""

    def __init__(self, application: Predictions, board: Scoreboard) -> None:
        self.most_calls = application.most_calls
        self.is_async = application.is_async
        self.batch_limits = application.batch_limits
        self.answer_all = application.answer_all
        self.check_health = application.check_health
        self._application = application
        self._board = board

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ["PATH_INFO"]
        if path in PROBES and answers(environ["REQUEST_METHOD"], path):
            return PROBES[path](self._board).send(start_response)
        return self._application(environ, start_response)
