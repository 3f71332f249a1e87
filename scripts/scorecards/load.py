"""Steady load: clients that send a request, look at what became of it, and pause."""

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
    """Keeps a port busy meanwhile.

    Half of the clients keep their connections, half make a new one each time. A kept connection
    that was closed before the next request was sent is no failure, as HTTP has it (RFC 9112 9.3.1);
    one that breaks after it is.
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
        """The median latency of answers, 0 where there are none."""
        latencies = [result.latency for result in self.results if result.ok]
        return statistics.median(latencies) if latencies else 0.0

    def go_on(self, requests: int, within: float = 10) -> None:
        """Wait until so many more requests have come to an end, or until they will not."""
        enough = len(self.results) + requests
        with suppress(Late):
            eventually(lambda: len(self.results) >= enough, within, "requests")

    def run_for(self, seconds: float) -> None:
        """Wait so long while the clients work."""
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
            self._over.wait(PAUSE_SECONDS * random.uniform(0.5, 1.5))  # or they fall into step
        if connection:
            connection.close()
