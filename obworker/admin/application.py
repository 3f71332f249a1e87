"""What the admin process serves: probes, /healthz and /metrics, and a list of them at /."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import NamedTuple, Protocol

from obworker.admin import metrics
from obworker.http.cycle import StartResponse
from obworker.http.environ import Environ
from obworker.supervisor import health, memory
from obworker.supervisor.probes import METHODS, PROBES, Answer, verdict
from obworker.supervisor.scoreboard import Scoreboard

ALLOW = ("Allow", ", ".join(METHODS))
MEANINGS: health.Report = {
    "/livez": "200 while this process answers",
    "/readyz": "200 while requests can be sent, else 503 and why",
    "/healthz": "the same status, and all there is to know",
    "/metrics": "numbers for Prometheus",
}


class Page(Protocol):
    """What is shown."""

    def send(self, start_response: StartResponse) -> list[bytes]:
        """Answer a request in WSGI's way."""


class Scraped(NamedTuple):
    """What Prometheus gets."""

    body: bytes

    def send(self, start_response: StartResponse) -> list[bytes]:
        """Answer a request in WSGI's way."""
        length = str(len(self.body))
        start_response(
            "200 OK", [("Content-Type", metrics.CONTENT_TYPE), ("Content-Length", length)]
        )
        return [self.body]


def takes_time(_method: str, path: str) -> bool:
    """Whether others must not wait for the answer: to measure memory takes a while."""
    return path == "/metrics"


def healthz(board: Scoreboard) -> Answer:
    """Tell everything."""
    report = health.report(board, time.monotonic())
    return Answer(verdict(ready=bool(report["ready"])), report)


def scrape(board: Scoreboard) -> Scraped:
    """Measure the memory of all processes, and tell everything in numbers."""
    report = health.report(board, time.monotonic())
    return Scraped(metrics.text(report, memory.of_tree(board.header.master_pid)))


def listing(_board: Scoreboard) -> Answer:
    """Name the paths there are."""
    return Answer(HTTPStatus.OK, MEANINGS)


PAGES: dict[str, Callable[[Scoreboard], Page]] = {
    **PROBES,
    "/healthz": healthz,
    "/metrics": scrape,
    "/": listing,
}


class Admin:
    """The WSGI application of the admin process."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._answer(environ["REQUEST_METHOD"], environ["PATH_INFO"]).send(start_response)

    def _answer(self, method: str, path: str) -> Page:
        page = PAGES.get(path)
        if page is None:
            error = f"Not Found: there are {', '.join(MEANINGS)}"
            return Answer(HTTPStatus.NOT_FOUND, {"error": error})
        if method not in METHODS:
            error = f"Method Not Allowed: {method[:20]}"
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, {"error": error}, (ALLOW,))
        return page(self._board)
