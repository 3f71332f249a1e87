"""The pages of the admin process: probes, /healthz, /metrics, and a list of them at /."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from pathlib import Path

from obworker.admin import metrics, predictor_metrics
from obworker.http.cycle import StartResponse
from obworker.http.environ import Environ
from obworker.supervisor import health, lapse, memory
from obworker.supervisor.memory import Memories
from obworker.supervisor.probes import METHODS, PROBES, Answer, in_json, verdict
from obworker.supervisor.scoreboard import Scoreboard

ALLOW = ("Allow", ", ".join(METHODS))
MEANINGS: health.Report = {
    "/livez": "200 while this process answers and the master goes on, else 503 and why",
    "/readyz": "200 while requests can be sent, else 503 and why",
    "/healthz": "the same status, and all there is to know",
    "/metrics": "numbers for Prometheus",
}


def takes_time(_method: str, path: str) -> bool:
    """Whether a page is made on the executor's thread: measuring memory takes a while."""
    return path == "/metrics"


class Admin:
    """The WSGI application of the admin process; one thread makes the pages that take time.

    `metrics` is the directory of predictor.py's own metrics.
    """

    def __init__(self, board: Scoreboard, metrics: Path | None = None) -> None:
        self._board = board
        self._metrics = metrics
        self._memories = Memories(self._measure)
        self._pages: dict[str, Callable[[], Answer]] = {
            **{path: partial(probe, board) for path, probe in PROBES.items()},
            "/healthz": self._healthz,
            "/metrics": self._scrape,
            "/": partial(in_json, HTTPStatus.OK, MEANINGS),
        }

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._answer(environ["REQUEST_METHOD"], environ["PATH_INFO"]).send(start_response)

    def _answer(self, method: str, path: str) -> Answer:
        page = self._pages.get(path)
        if page is None:
            error = f"Not Found: there are {', '.join(MEANINGS)}"
            return in_json(HTTPStatus.NOT_FOUND, {"error": error})
        if method not in METHODS:
            error = f"Method Not Allowed: {method[:20]}"
            return in_json(HTTPStatus.METHOD_NOT_ALLOWED, {"error": error}, (ALLOW,))
        return page()

    def _healthz(self) -> Answer:
        """Return the whole report."""
        report = self._report()
        return in_json(verdict(ready=bool(report["ready"])), report)

    def _scrape(self) -> Answer:
        """Return the report and the memory of all processes as metrics, and the predictor's own."""
        measured = self._memories.recent()
        own = predictor_metrics.collect(self._metrics) if self._metrics else ()
        body = metrics.text(self._report(), measured, self._others, own)
        return Answer(HTTPStatus.OK, body, metrics.CONTENT_TYPE)

    def _report(self) -> health.Report:
        now = time.monotonic()
        return health.report(self._board, now, lapse.look(self._board, now))

    @property
    def _others(self) -> dict[int, str]:
        """The names of the processes that are not workers, by pid."""
        header = self._board.header
        molds = dict.fromkeys(header.mold_pids, "mold")
        named = {header.master_pid: "master", **molds, os.getpid(): "admin"}
        return {pid: name for pid, name in named.items() if pid}

    def _measure(self) -> memory.Usage:
        board, master = self._board, self._board.header.master_pid
        workers = {row.pid for row in board.rows}
        return memory.measure(master, workers | self._others.keys()) if master else {}
