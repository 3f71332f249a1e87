"""Fixtures for tests of the HTTP server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wire import KEY, Running, StartServer

from obworker.http.batches import Batching
from obworker.http.cycle import Application
from obworker.http.monitor import UNWATCHED, Monitor
from obworker.settings import Settings


@pytest.fixture
def start() -> Iterator[StartServer]:
    """Start servers: `start(app, listener=None, monitor=UNWATCHED, **settings)`.

    A test fails if a connection outlives its client, or if the event loop reports an error.
    """
    running: list[Running] = []

    def start(
        app: Application,
        listener: socket.socket | None = None,
        monitor: Monitor = UNWATCHED,
        open_path: str = "",
        batching: Batching | None = None,
        **settings: Any,
    ) -> Running:
        if listener is None:
            listener = socket.socket()
            listener.bind(("127.0.0.1", 0))
        full = Settings(**{"access_log": False, **settings})
        running.append(Running(app, listener, full, monitor, open_path, batching))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """Write a file with an API key, and return its path."""
    path = tmp_path / "keys"
    path.write_text(KEY)
    path.chmod(0o600)
    return str(path)
