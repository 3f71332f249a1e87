"""Asks the admin process for its health checks, whose answers must be true at all times."""

from __future__ import annotations

import json
import threading
import time
from random import Random
from typing import Any

from turmoil.answers import Answer
from turmoil.ledger import Loss
from turmoil.links import Link
from turmoil.scene import Scene
from turmoil.served import question

LONGEST_REST = 0.2
PATHS = ("/livez", "/readyz", "/healthz", "/metrics")
NEVER_UNREADY = ("/livez", "/metrics")


class Prober:
    """Sends random requests to the admin process, and checks the responses."""

    def __init__(self, scene: Scene, port: int, random: Random) -> None:
        self._port = port
        self._server = scene.server
        self._absences = scene.absences
        self._ledger = scene.ledger
        self._random = random

    def run(self, over: threading.Event) -> None:
        """Ask until `over` is set."""
        while not over.wait(self._random.uniform(0, LONGEST_REST)):
            self._ask(self._random.choice(["GET", "HEAD"]), self._random.choice(PATHS))

    def _ask(self, method: str, path: str) -> None:
        self._ledger.probe(f"{method} {path}")
        may_be_unready = self._absences.explain_unreadiness()
        answer = self._answer(method, path)
        if answer is None:
            return
        may_be_unready |= self._absences.explain_unreadiness()
        if fault := fault_of(method, path, answer, may_be_unready=may_be_unready):
            self._ledger.fail(f"{method} {path}: {fault}")
        if (method, path) == ("GET", "/healthz"):
            self._look(json.loads(answer.body))

    def _look(self, report: dict[str, Any]) -> None:
        if report["status"] == "ok":
            serving = {slot["pid"] for slot in report["slots"]}
            running = {worker.pid for worker in self._server.processes("worker")}
            self._absences.see(serving | running)

    def _answer(self, method: str, path: str) -> Answer | None:
        """Return the response, or None if there was none.

        That is recorded as a loss; the verdict excuses it if the admin process was killed.
        """
        link = None
        opened = time.monotonic()
        try:
            link = Link(self._port)
            link.send(question(method, path))
            return link.hear(has_body=method != "HEAD")
        except (OSError, ValueError) as error:
            port, is_cut = link.port if link else None, isinstance(error, ConnectionError)
            how = f"{type(error).__name__}: {error}"
            loss = Loss(f"probe-{method}-{path}", time.monotonic(), how, port, opened, is_cut)
            self._ledger.losses.append(loss)
            return None
        finally:
            if link:
                link.close()


def fault_of(method: str, path: str, answer: Answer, *, may_be_unready: bool) -> str | None:
    """Say what is wrong with a response; return None if nothing is."""
    is_ready = answer.status == 200
    if not is_ready and (answer.status != 503 or path in NEVER_UNREADY):
        return f"{answer.status} {answer.body!r}"
    if not is_ready and not may_be_unready:
        return f"not ready, and no worker was sent away: {answer.body!r}"
    if method == "GET" and path in ("/readyz", "/healthz"):
        report = json.loads(answer.body)
        if report["ready"] != is_ready or (report["reason"] is None) != is_ready:
            return f"{answer.status} and {report}"
    return None
