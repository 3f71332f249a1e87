"""The HTTP libraries with which people call a service, all behind the same few calls.

They differ in how they pool connections, frame bodies and read streams. None of them repeats a
POST, so a request that the server loses shows up as an error.
"""

from __future__ import annotations

import abc
import http.client
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx
import requests
import urllib3
from harness import Reply

TIMEOUT = 30.0
POOL = 4


class Call(NamedTuple):
    """A request; if its body is a list, it is sent in chunks."""

    method: str
    path: str
    body: bytes | list[bytes]
    headers: dict[str, str]

    @property
    def is_chunked(self) -> bool:
        return isinstance(self.body, list)


class Library(abc.ABC):
    """A library with its pool of connections to one server."""

    @abc.abstractmethod
    def __init__(self, base: str) -> None:
        """Take the URL of the server, without a slash at the end."""

    def send(
        self,
        path: str,
        body: bytes | list[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
    ) -> Reply:
        """Send one request, and return the response with header names in lower case."""
        return self._send(Call(method, path, body, dict(headers or {})))

    @abc.abstractmethod
    def _send(self, call: Call) -> Reply: ...

    @abc.abstractmethod
    def stream(self, path: str) -> Iterator[bytes]:
        """Send a POST, and yield the parts of the response's body as they arrive."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the pool."""

    def load(self, path: str, over: threading.Event) -> list[Reply]:
        """Send requests on all connections of the pool at once until `over` is set."""

        def post() -> list[Reply]:
            replies = []
            while not over.is_set():
                replies.append(self.send(path))
            return replies

        with ThreadPoolExecutor(POOL) as threads:
            posts = [threads.submit(post) for _ in range(POOL)]
            return [reply for replies in posts for reply in replies.result()]


def reply(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    return Reply(status, {name.lower(): value for name, value in headers.items()}, body)


class Requests(Library):
    """requests with a session; `authority` is the file with the certificates that it trusts."""

    def __init__(self, base: str, authority: str | None = None) -> None:
        self._base = base
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, and no other authorities
        self._session.verify = authority or True

    def _send(self, call: Call) -> Reply:
        answer = self._session.request(
            call.method,
            self._base + call.path,
            data=call.body if isinstance(call.body, bytes) else iter(call.body),
            headers=call.headers,
            timeout=TIMEOUT,
        )
        return reply(answer.status_code, answer.headers, answer.content)

    def stream(self, path: str) -> Iterator[bytes]:
        with self._session.post(self._base + path, stream=True, timeout=TIMEOUT) as answer:
            yield from answer.iter_content(None)

    def close(self) -> None:
        self._session.close()


class Urllib3(Library):
    """urllib3 with a pool."""

    def __init__(self, base: str) -> None:
        self.pool = urllib3.connection_from_url(base, maxsize=POOL, timeout=TIMEOUT, retries=False)

    def _send(self, call: Call) -> Reply:
        answer = self.pool.urlopen(
            call.method, call.path, call.body, call.headers, chunked=call.is_chunked
        )
        return reply(answer.status, answer.headers, answer.data)

    def stream(self, path: str) -> Iterator[bytes]:
        answer = self.pool.urlopen("POST", path, preload_content=False)
        yield from answer.stream()

    def close(self) -> None:
        self.pool.close()


class Httpx(Library):
    """The blocking client of httpx."""

    def __init__(self, base: str) -> None:
        self._client = httpx.Client(base_url=base, timeout=TIMEOUT, trust_env=False)

    def _send(self, call: Call) -> Reply:
        answer = self._client.request(
            call.method, call.path, content=call.body, headers=call.headers
        )
        return reply(answer.status_code, answer.headers, answer.content)

    def stream(self, path: str) -> Iterator[bytes]:
        with self._client.stream("POST", path) as answer:
            yield from answer.iter_raw()

    def close(self) -> None:
        self._client.close()


class Standard(Library):
    """http.client, which has no pool: each thread has its own connection."""

    def __init__(self, base: str) -> None:
        self._address = base.removeprefix("http://")
        self._own = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def _send(self, call: Call) -> Reply:
        connection = self._connection()
        fields = call.headers | ({"Transfer-Encoding": "chunked"} if call.is_chunked else {})
        connection.request(
            call.method, call.path, call.body, fields, encode_chunked=call.is_chunked
        )
        answer = connection.getresponse()
        return reply(answer.status, dict(answer.getheaders()), answer.read())

    def stream(self, path: str) -> Iterator[bytes]:
        connection = self._connection()
        connection.request("POST", path)
        answer = connection.getresponse()
        while part := answer.read1():
            yield part

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT)
            self._own.connection = connection
            self._connections.append(connection)
        return connection
