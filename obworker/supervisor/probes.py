"""Liveness and readiness over HTTP, answered from the scoreboard at once.

Workers answer them `in_front` of the application, so that an orchestrator can use the main port:
on the event loop's thread and without the queue. But a worker cannot answer while predict holds the
GIL. So the admin process answers them, too.
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
    """Answer whether the service is alive: whether the master still does anything."""
    still = lapse.silence(board, time.monotonic())
    if still < lapse.HANGS_AFTER:
        return in_json(HTTPStatus.OK, {"status": "alive"})
    reason = f"the master has stood still for {still:.0f} s"
    return in_json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "hung", "reason": reason})


def readyz(board: Scoreboard) -> Answer:
    """Answer whether requests can be sent here, and if not, why."""
    stands = health.standing(board, lapse.look(board, time.monotonic()))
    return in_json(verdict(ready=stands.is_ready), health.summary(stands))


def verdict(*, ready: bool) -> HTTPStatus:
    """Return the status code of a probe."""
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
        if path in PROBES and answers(
            environ["REQUEST_METHOD"], path
        ):  # spares most requests the call
            return PROBES[path](board).send(start_response)
        return application(environ, start_response)

    return answer
