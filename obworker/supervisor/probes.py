"""Liveness and readiness over HTTP, answered from the scoreboard at once.

A worker has them `in_front` of its application, so an orchestrator can ask on the port it knows.
There a worker answers on its event loop's thread, past the queue; but one whose predict holds the
interpreter's lock answers nobody, which is why the admin process answers the same questions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

import orjson

from obworker.http.cycle import Application, StartResponse
from obworker.http.environ import Environ
from obworker.supervisor import health, lapse
from obworker.supervisor.scoreboard import Scoreboard


class Answer(NamedTuple):
    """A status, a body, and fields beyond the usual."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"
    fields: tuple[tuple[str, str], ...] = ()

    def send(self, start_response: StartResponse) -> list[bytes]:
        """Answer a request in WSGI's way; the server leaves the body out for HEAD."""
        fields = [
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
            ("Cache-Control", "no-store"),
            *self.fields,
        ]
        start_response(f"{self.status.value} {self.status.phrase}", fields)
        return [self.body]


def in_json(
    status: HTTPStatus, report: health.Report, fields: tuple[tuple[str, str], ...] = ()
) -> Answer:
    """Return an answer that a program reads."""
    return Answer(status, orjson.dumps(report) + b"\n", fields=fields)


def livez(board: Scoreboard) -> Answer:
    """Say that this process answers, and whether the master still does anything."""
    still = lapse.silence(board, time.monotonic())
    if still < lapse.HANGS_AFTER:
        return in_json(HTTPStatus.OK, {"status": "alive"})
    reason = f"the master has stood still for {still:.0f} s"
    return in_json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "hung", "reason": reason})


def readyz(board: Scoreboard) -> Answer:
    """Say whether requests can be sent here, and why not."""
    stands = health.standing(board, lapse.look(board, time.monotonic()))
    return in_json(verdict(ready=stands.is_ready), health.summary(stands))


def verdict(*, ready: bool) -> HTTPStatus:
    """Return the status by which a probe understands the answer."""
    return HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE


PROBES = {"/livez": livez, "/readyz": readyz}
METHODS = ("GET", "HEAD")


def answers(method: str, path: str) -> bool:
    """Whether a request is answered without the application."""
    return method in METHODS and path in PROBES


def in_front(application: Application, board: Scoreboard) -> Application:
    """Return what answers the probes, and passes everything else on to `application`."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path in PROBES and answers(environ["REQUEST_METHOD"], path):  # most paths need no call
            return PROBES[path](board).send(start_response)
        return application(environ, start_response)

    return answer
