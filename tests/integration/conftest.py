"""Fixtures for tests against real servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from harness import Serve, Server, command
from talking import Talking


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start servers on a free port of 127.0.0.1; their logs are shown if the test fails.

    A server that the test has not stopped is killed, with all processes that it has started.
    """
    servers: list[Server] = []

    def start(
        *argv: str,
        script: Path | None = None,
        cwd: Path | None = None,
        environ: Mapping[str, str | None] | None = None,
        listen: tuple[str, ...] = ("--host", "127.0.0.1", "--port", "0"),
        under: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
    ) -> Server:
        log_path = tmp_path_factory.mktemp("server") / "log"
        program = [*under, *command(*listen, *argv, script=script)]
        server = Server(program, log_path, cwd=cwd, environ=environ, pass_fds=pass_fds)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.destroy()
        print(f"--- log of {server.process.args!r}\n{server.log()}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return an empty model directory."""
    directory = tmp_path / "model"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talking]:
    """Start one server of tests/predictors/talks for all tests of a module."""
    with closing(Talking(tmp_path_factory.mktemp("talking"))) as server:
        yield server


@pytest.fixture
def talking_alone(tmp_path: Path) -> Iterator[Talking]:
    """Start a server of tests/predictors/talks for one test."""
    with closing(Talking(tmp_path)) as server:
        yield server
