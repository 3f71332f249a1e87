"""Fixtures for tests of the HTTP server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from wire import Running, StartServer

from obworker.http.cycle import Application
from obworker.settings import Settings


@pytest.fixture
def start() -> Iterator[StartServer]:
    """Start servers: `start(app, listener=None, lent=False, **settings)`.

    A test fails where a connection outlives its client or the loop reports an error.
    """
    running: list[Running] = []

    def start(
        app: Application,
        listener: socket.socket | None = None,
        *,
        lent: bool = False,
        **settings: Any,
    ) -> Running:
        if listener is None:
            listener = socket.socket()
            listener.bind(("127.0.0.1", 0))
        quiet = Settings(**{"access_log": False, **settings})
        running.append(Running(app, listener, quiet, lent=lent))
        return running[-1]

    yield start
    for server in running:
        server.stop()
