"""Runs an obworker that serves the model of these checks, and sends it requests and commands."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from scorecards.waiting import eventually

MODEL = Path(__file__).with_name("model")
START_TIMEOUT = 300.0
ANSWER_TIMEOUT = 60.0


class Service:
    """The process, its log and its two ports."""

    def __init__(self, log: Path, workers: int) -> None:
        self._log = log
        options = ["--bind", "127.0.0.1:0", "--admin-bind", "127.0.0.1:0", "--no-access-log"]
        options += ["--control-socket", "off", "--workers", str(workers)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "obworker", *options, str(MODEL)],
                stdout=output,
                stderr=output,
            )

    def wait_until_ready(self) -> None:
        """Wait for both ports and all workers; the caller stops the service even if this fails."""
        self.port = self._find_port("serving")
        self._admin_port = self._find_port("admin")
        eventually(lambda: self.report()["status"] == "ok", START_TIMEOUT, "all workers ready")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _find_port(self, label: str) -> int:
        def found() -> re.Match[str] | None:
            if self._process.poll() is not None:
                raise RuntimeError(f"obworker ended with {self._process.returncode}:\n{self.log()}")
            return re.search(rf"{label} +http://\S+?:(\d+)/", self.log())

        return int(eventually(found, START_TIMEOUT, f"obworker {label}")[1])

    def report(self) -> Any:
        """Return the report of /healthz."""
        return _ask(self._admin_port, "GET", "/healthz")[1]

    def post(self, path: str = "/") -> tuple[int, Any]:
        return _ask(self.port, "POST", path)

    def rate(self, clients: int, seconds: float) -> float:
        """Return how many requests per second it answers; the clients keep their connections."""
        counts = [0] * clients
        end = time.monotonic() + seconds

        def work(number: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, ANSWER_TIMEOUT)
            while time.monotonic() < end:
                connection.request("POST", "/")
                response = connection.getresponse()
                response.read()
                counts[number] += response.status == 200
            connection.close()

        threads = [
            threading.Thread(target=work, args=(number,), daemon=True) for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / seconds

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _ask(port: int, method: str, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
