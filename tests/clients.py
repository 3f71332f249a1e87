"""Clients that keep a server busy and record the outcome of every request."""

from __future__ import annotations

import enum
import json
import select
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

CONNECT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 30.0


class Outcome(enum.Enum):
    """How an attempt to send a request ended."""

    ANSWERED = "answered with 200"
    FAILED = "answered with something else"
    REFUSED = "no connection was made"
    CLOSED = "a kept connection was closed before another request was sent on it"
    LOST = "the request was sent and no whole answer came"


class Result(NamedTuple):
    """An outcome, with the body of the response or a description of what went wrong."""

    outcome: Outcome
    text: str

    @property
    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.text)


class Client:
    """Has one connection at a time to a port of this machine, and keeps it if told to."""

    def __init__(self, port: int, *, keep: bool) -> None:
        self._port = port
        self._keep = keep
        self._socket: socket.socket | None = None

    def post(self, path: str = "/", body: bytes = b"") -> Result:
        """Send one request; whatever the server does is a result, not an exception."""
        if self._socket is not None and (end := self._look_for_end(self._socket)):
            self.close()
            return end
        if self._socket is None:
            try:
                self._socket = socket.create_connection(
                    ("127.0.0.1", self._port), timeout=CONNECT_TIMEOUT
                )
            except OSError as error:
                return Result(Outcome.REFUSED, repr(error))
        self._socket.settimeout(ANSWER_TIMEOUT)
        try:
            return self._exchange(self._socket, path, body)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            return Result(Outcome.LOST, repr(error))

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _look_for_end(self, connection: socket.socket) -> Result | None:
        readable, _, _ = select.select([connection], [], [], 0)
        if not readable:
            return None
        try:
            rest = connection.recv(100)
        except OSError as error:
            return Result(Outcome.LOST, f"an idle connection was reset: {error!r}")
        if rest:
            return Result(Outcome.LOST, f"bytes that nobody asked for: {rest!r}")
        return Result(Outcome.CLOSED, "")

    def _exchange(self, connection: socket.socket, path: str, body: bytes) -> Result:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Connection: {'keep-alive' if self._keep else 'close'}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        received = b""
        while b"\r\n\r\n" not in received:
            received += _more(connection)
        head, _, answer = received.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        while len(answer) < int(fields["content-length"]):
            answer += _more(connection)
        if not self._keep or fields.get("connection") == "close":
            self.close()
        status = lines[0].split()[1]
        if status != "200":
            return Result(Outcome.FAILED, f"{status} {answer!r}")
        return Result(Outcome.ANSWERED, answer.decode())


def _more(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise EOFError("the connection ended before the answer did")
    return part


class Load:
    """Threads that send requests until they are refused or stopped; half keep their connection."""

    def __init__(self, port: int, threads: int, path: str = "/") -> None:
        self.results: list[Result] = []
        self._path = path
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(Client(port, keep=number % 2 == 0),))
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Result]:
        """End all threads after their current request, and return all results."""
        self._over.set()
        return self.wait()

    def wait(self) -> list[Result]:
        """Wait until all threads have ended by themselves, and return all results."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        return self.results

    def _run(self, client: Client) -> None:
        while not self._over.is_set():
            result = client.post(self._path)
            self.results.append(result)
            if result.outcome is Outcome.REFUSED:
                break
        client.close()


def in_parallel(calls: list[Callable[[], Result]]) -> list[Result]:
    """Make all calls at the same time, each in a thread, and return the results in order."""
    results: dict[int, Result] = {}

    def run(number: int) -> None:
        results[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return [results[number] for number in range(len(calls))]
