"""Steady load: clients that send a request, record its outcome, and pause."""

from __future__ import annotations

import random
import statistics
import threading
from contextlib import suppress

from scorecards.clients import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Pending, Result, send
from scorecards.waiting import Late, eventually

CLIENTS = 4
PAUSE_SECONDS = 0.02
RECENT = 40


class Load:
    """Keeps a port busy while the block runs.

    Half of the clients keep their connections, and half make a new one for each request. HTTP lets
    a server close a kept connection between two requests (RFC 9112 9.3.1), so that is no failure.
    It is one if the connection breaks after the next request was sent.
    """

    def __init__(self, port: int) -> None:
        self.results: list[Result] = []
        self._port = port
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number % 2 == 0,), daemon=True)
            for number in range(CLIENTS)
        ]

    def __enter__(self) -> Load:  # noqa: PYI034  # typing.Self is not there before Python 3.11
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End after each client's current request."""
        self._over.set()
        for thread in self._threads:
            thread.join(CONNECT_TIMEOUT + ANSWER_TIMEOUT)

    @property
    def failures(self) -> list[Result]:
        """All requests that were not answered with 200."""
        return [result for result in self.results if not result.ok]

    @property
    def slowest(self) -> float:
        """The longest latency of an answer, in seconds."""
        return max((result.latency for result in self.results if result.ok), default=0.0)

    @property
    def usual(self) -> float:
        """The median latency of answers in seconds, 0 if there are none."""
        latencies = [result.latency for result in self.results if result.ok]
        return statistics.median(latencies) if latencies else 0.0

    def go_on(self, requests: int, within: float = 10) -> None:
        """Wait until so many more requests have ended, or until the time is up."""
        enough = len(self.results) + requests
        with suppress(Late):
            eventually(lambda: len(self.results) >= enough, within, "requests")

    def run_for(self, seconds: float) -> None:
        """Let the clients work for so long."""
        self._over.wait(seconds)

    def is_served_by(self, version: str) -> bool:
        """Tell whether the last answers came from that version of the model."""
        recent = self.results[-RECENT:]
        return bool(recent) and all(
            result.ok and result.json["version"] == version for result in recent
        )

    def __str__(self) -> str:
        """Say how many failed, and how the first did."""
        failures = self.failures
        first = f" ({failures[0]})" if failures else ""
        return f"{len(failures)} of {len(self.results)} failed{first}"

    def _run(self, keep: bool) -> None:
        connection: Pending | None = None
        while not self._over.is_set():
            sent = send(self._port, connection, keep=keep)
            connection = sent if isinstance(sent, Pending) else None
            self.results.append(sent.result() if isinstance(sent, Pending) else sent)
            # Pauses of equal length would make all clients send at the same time.
            self._over.wait(PAUSE_SECONDS * random.uniform(0.5, 1.5))
        if connection:
            connection.close()
