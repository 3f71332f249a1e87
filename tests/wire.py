"""Runs a real HTTP server in this process, in its own thread, and a client that sees every byte."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from harness import eventually

from obworker.http import head
from obworker.http.api_keys import ApiKeys
from obworker.http.batches import Batching
from obworker.http.cycle import Application, Cycle
from obworker.http.monitor import UNWATCHED, Monitor
from obworker.http.parser import Request
from obworker.http.server import Server
from obworker.settings import Settings

TIMEOUT = 10.0
# The only API key in the file that the fixture `keys` writes.
KEY = "sk-0123456789abcdef"
# Requests to this path are answered in the event loop's thread, without a place in the queue.
AT_ONCE = "/at-once"


class Reply(NamedTuple):
    """A response as it came over the wire; `chunks` has its chunks, if it was chunked."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[bytes]


class Client:
    """One connection that sends exactly what the test says and shows exactly what came."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(TIMEOUT)
        self._file = connected.makefile("rb")

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def get(self, path: str = "/", *fields: str, version: str = "1.1") -> None:
        lines = [f"GET {path} HTTP/{version}", "Host: test", *fields, "", ""]
        self.send("\r\n".join(lines).encode("latin-1"))

    def post(self, path: str, body: bytes, *fields: str) -> None:
        lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *fields]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"), body)

    def read_line(self) -> bytes:
        """Read one line; it is empty if the server has closed the connection."""
        return self._file.readline()

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Read a status line and a header section; fail if a field comes twice."""
        status = self.read_line()
        assert status.startswith(b"HTTP/1.1 "), f"no response: {status!r}"
        headers: dict[str, str] = {}
        while (line := self.read_line()) != b"\r\n":
            name, value = line.decode("latin-1").removesuffix("\r\n").split(": ", 1)
            assert name.lower() not in headers
            headers[name.lower()] = value
        return int(status[9:12]), headers

    def read_chunk(self) -> bytes:
        size = int(self.read_line(), 16)
        data = self.read(size)
        assert self.read_line() == b"\r\n"
        return data

    def read_reply(self, method: str = "GET") -> Reply:
        """Read one response, with whatever framing it has."""
        status, headers = self.read_head()
        chunks = []
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif "transfer-encoding" in headers:
            while chunk := self.read_chunk():
                chunks.append(chunk)
            body = b"".join(chunks)
        elif "content-length" in headers:
            body = self.read(int(headers["content-length"]))
        else:
            body = self._file.read()
        return Reply(status, headers, body, chunks)

    def read_to_end(self) -> bytes:
        """Read until the server closes its side of the connection."""
        return self._file.read()

    @property
    def at_end(self) -> bool:
        """Whether the server closes without another byte; waits until it closes or sends one."""
        return self.read(1) == b""

    def half_close(self) -> None:
        """Close the sending side, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def reset(self) -> None:
        """Reset the connection, as happens when a client is killed or its link is dropped."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Bugs(logging.Handler):
    """Collects what the event loop logs about callbacks that raised an exception."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "a bug" in record.getMessage():
            self.found.append(record.getMessage())


class Running:
    """A running server, its executor thread, and the clients that are connected to it."""

    def __init__(
        self,
        app: Application,
        listener: socket.socket,
        settings: Settings,
        monitor: Monitor = UNWATCHED,
        open_path: str = "",
        batching: Batching | None = None,
    ) -> None:
        self._open_path = open_path
        self.overdue: list[Cycle] = []
        self.drained = threading.Event()
        self.listener = listener
        self._address = listener.getsockname()
        self._family = listener.family
        self._clients: list[Client] = []
        self._bugs = Bugs()
        logging.getLogger("obworker.http").addHandler(self._bugs)
        self.server = Server(
            app,
            [listener],
            settings,
            must_queue=lambda _, path: path != AT_ONCE,
            is_open=lambda _, path: path == self._open_path,
            api_keys=ApiKeys.of(settings),
            monitor=monitor,
            batching=batching,
            on_overdue=self.overdue.append,
            on_drained=self.drained.set,
        )
        self.server.start()
        self.server.executors.start()
        self._thread = threading.Thread(
            target=self.server.executors.run_here, name="executor", daemon=True
        )
        self._thread.start()

    @property
    def active(self) -> int:
        """How many connections the server has; a lost one counts until its request has ended."""
        return len(self.server._service.connections)

    @property
    def pending(self) -> int:
        """How many requests are in the application or wait to enter it."""
        return self.server.executors._unfinished + len(self.server.queue._waiting)

    def connect(self, receive_buffer: int | None = None) -> Client:
        connected = socket.socket(self._family)
        connected.settimeout(TIMEOUT)
        if receive_buffer is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            connected.connect(self._address)
        except OSError:
            connected.close()
            raise
        client = Client(connected)
        self._clients.append(client)
        return client

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the event loop's thread, and wait until it has returned."""
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self.server.reactor.post(run)
        assert done.wait(TIMEOUT)

    def drain(self, *, empty_queue: bool = True) -> None:
        self.call(lambda: self.server.drain(empty_queue=empty_queue, final=True))

    def stop(self) -> None:
        """Close the clients, then stop the server; fail if a connection outlives its client."""
        for client in self._clients:
            client.close()
        eventually(lambda: not self.active, TIMEOUT, "the end of all connections")
        self.call(self._end)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        self.server.close()
        logging.getLogger("obworker.http").removeHandler(self._bugs)
        assert not self._bugs.found

    def _end(self) -> None:
        if self.listener.fileno() != -1:
            self.listener.close()
        self.server.executors.stop()


StartServer = Callable[..., Running]


def forget_heads() -> None:
    """Empty the caches of the parser."""
    head.read_request_line.cache_clear()
    head._known_field.cache_clear()
    head._known_heads.clear()


def body_of(environ: dict[str, Any]) -> bytes:
    """Read a request's body, as an application should do it."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with the method, path and body of the request."""
    line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} ".encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [line + body_of(environ)]


class Collector:
    """Collects the requests that a parser finds."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def request_received(self, request: Request) -> None:
        self.requests.append(request)

    def continue_expected(self) -> None:
        pass


class Blocking:
    """An application whose calls wait until the test releases them."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.release = threading.Event()
        self.calls = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.calls += 1
        self.begun.release()
        assert self.release.wait(TIMEOUT)
        return echo(environ, start_response)

    def wait_until_begun(self) -> None:
        assert self.begun.acquire(timeout=TIMEOUT)
