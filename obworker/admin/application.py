"""What the admin process serves: /livez, /readyz and /healthz, and a list of them at /."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from http import HTTPStatus

from obworker.http.cycle import StartResponse
from obworker.http.environ import Environ
from obworker.supervisor import health
from obworker.supervisor.probes import METHODS, PROBES, Answer, verdict
from obworker.supervisor.scoreboard import Scoreboard

ALLOW = ("Allow", ", ".join(METHODS))
MEANINGS: health.Report = {
    "/livez": "200 while this process answers",
    "/readyz": "200 while requests can be sent, else 503 and why",
    "/healthz": "the same status, and all there is to know",
}


def healthz(board: Scoreboard) -> Answer:
    """Tell everything."""
    report = health.report(board, time.monotonic())
    return Answer(verdict(ready=bool(report["ready"])), report)


def listing(_board: Scoreboard) -> Answer:
    """Name the paths there are."""
    return Answer(HTTPStatus.OK, MEANINGS)


PAGES: dict[str, Callable[[Scoreboard], Answer]] = {
    **PROBES,
    "/healthz": healthz,
    "/": listing,
}


class Admin:
    """The WSGI application of the admin process."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._answer(environ["REQUEST_METHOD"], environ["PATH_INFO"]).send(start_response)

    def _answer(self, method: str, path: str) -> Answer:
        page = PAGES.get(path)
        if page is None:
            error = f"Not Found: there are {', '.join(MEANINGS)}"
            return Answer(HTTPStatus.NOT_FOUND, {"error": error})
        if method not in METHODS:
            error = f"Method Not Allowed: {method[:20]}"
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, {"error": error}, (ALLOW,))
        return page(self._board)
