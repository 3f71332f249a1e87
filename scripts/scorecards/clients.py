"""Sends single requests, and returns their outcome and latency instead of raising exceptions."""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
from typing import Any, NamedTuple

CONNECT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 8.0


class Result(NamedTuple):
    """The outcome of a request; `status` is None if there was no complete response."""

    sent: float
    latency: float
    status: int | None
    text: str

    @property
    def ok(self) -> bool:
        """Whether it was answered with 200."""
        return self.status == 200

    @property
    def is_closed(self) -> bool:
        """Whether the connection ended without a complete response."""
        return self.status is None and self.text.startswith("closed")

    @property
    def json(self) -> Any:
        """The body of the response, parsed as JSON."""
        return json.loads(self.text)

    def __str__(self) -> str:
        """Return the outcome in a few words."""
        what = self.text if self.status is None else str(self.status)
        return f"{what} after {self.latency:.1f} s"


class Pending:
    """A request that was sent; more can follow on its connection if the connection is kept."""

    def __init__(self, port: int, do: str = "", *, path: str = "/", keep: bool = False) -> None:
        self._keep = keep
        self._is_repeated = False
        request = f"POST {path}?do={do}" if path == "/" else f"GET {path}"
        self._head = (
            f"{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        self.sent = time.monotonic()
        self._socket = socket.create_connection(("127.0.0.1", port), CONNECT_TIMEOUT)
        self._send()

    def repeat(self) -> None:
        """Send the same request again on the same connection."""
        self._is_repeated = True
        self.sent = time.monotonic()
        self._send()

    @property
    def is_over(self) -> bool:
        """Whether a response or the end of the connection has arrived, or was dealt with."""
        return self._socket.fileno() < 0 or bool(select.select([self._socket], [], [], 0)[0])

    def result(self, timeout: float = ANSWER_TIMEOUT) -> Result:
        """Wait for the response, and return the outcome."""
        self._socket.settimeout(timeout)
        response = http.client.HTTPResponse(self._socket)
        try:
            response.begin()
            text = response.read().decode()
        except TimeoutError:
            return self._lost("no answer")
        except (OSError, http.client.HTTPException) as error:
            which = "a kept" if self._is_repeated else "a new"
            return self._lost(f"closed {which} connection ({type(error).__name__})")
        finally:
            response.close()
        if response.will_close or not self._keep:
            self.close()
        return Result(self.sent, time.monotonic() - self.sent, response.status, text)

    def close(self) -> None:
        """Close the connection, whatever may still arrive."""
        self._socket.close()

    def _lost(self, how: str) -> Result:
        self.close()
        return _lost(self.sent, how)

    def _send(self) -> None:
        try:
            self._socket.sendall(self._head.encode())
        except OSError:
            self.close()
            raise


def send(port: int, kept: Pending | None = None, *, keep: bool = False) -> Pending | Result:
    """Send a request on the kept connection, or on a new one if the server has closed that."""
    started = time.monotonic()
    if kept and kept.is_over:
        kept.close()
        kept = None
    try:
        if kept is None:
            return Pending(port, keep=keep)
        kept.repeat()
        return kept
    except OSError as error:
        return _lost(started, f"not sent ({type(error).__name__})")


def ask(port: int, do: str = "", *, path: str = "/", timeout: float = ANSWER_TIMEOUT) -> Result:
    """Send one request on a new connection, and wait for its outcome."""
    started = time.monotonic()
    try:
        return Pending(port, do, path=path).result(timeout)
    except OSError as error:
        return _lost(started, f"not sent ({type(error).__name__})")


def _lost(sent: float, how: str) -> Result:
    return Result(sent, time.monotonic() - sent, None, how)
