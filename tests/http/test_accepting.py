"""Clients that come: when there is no room for them, and when they leave as soon as they came."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from harness import eventually
from wire import Blocking, Client, Running, StartServer, echo

from obworker.http import acceptor


def is_calm(server: Running, seconds: float = 1.2) -> bool:
    """Whether the server hardly runs for a while, and has few timers when it is over."""
    before, passed = time.process_time(), []
    server.call(lambda: server.server.reactor.call_later(seconds, lambda: passed.append(1)))
    eventually(lambda: passed)
    timers = len(server.server.reactor._timers)
    return time.process_time() - before < seconds / 4 and timers < 8


def used(server: Running) -> Client:
    """Return a connection that has sent a request, and waits for the next."""
    client = server.connect()
    client.get()
    assert client.read_reply().status == 200
    return client


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave this process none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    taken = []
    with suppress(OSError):
        while True:
            taken.append(os.dup(0))
    try:
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_that_cannot_be_taken_in_keeps_nobody_from_the_next(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop forgets what has raised, and the worker was deaf from then on."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server = start(echo)
    with monkeypatch.context() as patched:
        patched.setattr(acceptor, "Connection", fail)
        lost = server.connect()
        eventually(lambda: "cannot accept a connection: No space left" in caplog.text)
        lost.close()
    used(server).close()


class TestOutOfDescriptors:
    def test_it_does_not_spin_and_serves_who_is_there(
        self, start: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = Blocking()
        server = start(app)
        client = server.connect()
        client.get()
        app.wait_until_begun()
        late = socket.socket()
        with caplog.at_level(logging.WARNING, "obworker.http"), no_descriptors():
            late.connect(server.listener.getsockname())
            assert is_calm(server)
            assert caplog.text.count("cannot accept a connection: Too many open files") == 1
            app.release.set()
            assert client.read_reply().status == 200
        answered = Client(late)
        answered.get()
        assert answered.read_reply().status == 200
        answered.close()

    def test_those_that_are_idle_make_room(self, start: StartServer) -> None:
        server = start(echo)
        idle = used(server)
        late = socket.socket()
        with no_descriptors():
            late.connect(server.listener.getsockname())
            assert idle.at_end
            answered = Client(late)
            answered.get()
            assert answered.read_reply().status == 200
        answered.close()


class Failing:
    """A listener whose accept fails."""

    def __init__(self, number: int) -> None:
        self.number = number

    def accept(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "kept"), [(errno.EMFILE, 0), (errno.ENOMEM, 0), (errno.EPERM, 1), (errno.EPROTO, 1)]
)
def test_only_where_something_is_wanting_idle_ones_make_room(
    start: StartServer, number: int, kept: int
) -> None:
    """A firewall, or an error of the network's that waits on the new one, cost an old one."""
    server = start(echo)
    used(server)
    listener = cast("socket.socket", Failing(number))
    server.call(lambda: server.server.acceptor._accept(listener))
    assert server.active == kept


class TestMostConnections:
    def test_the_one_that_is_idle_longest_makes_room(self, start: StartServer) -> None:
        server = start(echo, max_connections=3)
        first, second, third = (used(server) for _ in range(3))
        first.get()
        assert first.read_reply().status == 200
        used(server)
        assert second.at_end
        for client in (first, third):
            client.get()
            assert client.read_reply().status == 200

    def test_one_whose_request_is_yet_to_be_read_is_not_idle(self, start: StartServer) -> None:
        """Of a crowd each made room for the next, and most were never answered."""
        server = start(echo, max_connections=2)
        crowd: list[Client] = []

        def come() -> None:
            for _ in range(6):
                crowd.append(server.connect())
                crowd[-1].get()

        server.call(come)
        assert [client.read_reply().status for client in crowd] == [200] * 6

    def test_one_that_is_new_is_not_idle_and_the_next_waits(self, start: StartServer) -> None:
        """It was closed while its request was on the way."""
        server = start(echo, max_connections=2)
        new = [server.connect() for _ in range(2)]
        eventually(lambda: server.active == 2)
        late = server.connect()
        late.get()
        assert is_calm(server)
        for client in new:
            client.get()
            assert client.read_reply().status == 200
        assert late.read_reply().status == 200

    def test_but_not_for_long(self, start: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(acceptor, "SPARED_TIME", 0.1)
        server = start(echo, max_connections=2)
        silent = [server.connect() for _ in range(2)]
        eventually(lambda: server.active == 2)
        used(server)
        assert silent[0].at_end

    def test_where_none_is_idle_the_next_is_taken_in_as_soon_as_one_ends(
        self,
        start: StartServer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """It waited until the worker looked again, up to half a second."""
        monkeypatch.setattr(acceptor, "ACCEPT_RETRY_TIME", 60)
        app = Blocking()
        server = start(app, max_connections=2, threads=2)
        busy = [server.connect() for _ in range(2)]
        for client in busy:
            client.get()
            app.wait_until_begun()
        late = [server.connect() for _ in range(2)]
        for client in late:
            client.get("/", "Connection: close")
        eventually(lambda: "there are 2 and none is idle" in caplog.text)
        app.release.set()
        assert [client.read_reply().status for client in busy] == [200, 200]
        busy[0].close()
        assert [client.read_reply().status for client in late] == [200, 200]

    def test_where_none_is_idle_the_next_waits_and_nothing_spins(self, start: StartServer) -> None:
        app = Blocking()
        server = start(app, max_connections=2, threads=2)
        clients = [server.connect() for _ in range(2)]
        for client in clients:
            client.get()
            app.wait_until_begun()
        late = server.connect()
        late.get()
        assert is_calm(server)
        assert server.active == 2
        app.release.set()
        assert [client.read_reply().status for client in clients] == [200, 200]
        assert late.read_reply().status == 200

    def test_nor_with_several_listeners(self, start: StartServer) -> None:
        """Each try made as many as there are listeners, twice a second: 2, 4, 8."""
        app = Blocking()
        server = start(app, max_connections=1)
        client = server.connect()
        client.get()
        app.wait_until_begun()
        with second_listener(server) as other:
            late = Client(socket.create_connection(other.getsockname()))
            assert is_calm(server, 3)
            app.release.set()
            assert client.read_reply().status == 200
            late.get()
            assert late.read_reply().status == 200
            late.close()

    def test_one_that_waits_at_a_stop_is_taken_in_when_there_is_room(
        self, start: StartServer
    ) -> None:
        """The listener was closed, and the kernel reset it."""
        app = Blocking()
        server = start(app, max_connections=1)
        busy = server.connect()
        busy.get()
        app.wait_until_begun()
        late = server.connect()
        late.get()
        server.drain()
        eventually(lambda: server.server.acceptor._is_leaving)
        assert is_calm(server)
        app.release.set()
        assert busy.read_reply().status == 200
        busy.close()
        assert late.read_reply().status == 200
        late.close()
        eventually(server.drained.is_set)

    def test_nobody_is_closed_where_nobody_comes(self, start: StartServer) -> None:
        """A worker that has left a connection to the others looks again, and finds it gone."""
        app = Blocking()
        server = start(app, max_connections=2)
        idle, busy = server.connect(), server.connect()
        eventually(lambda: server.active == 2)
        busy.get()
        app.wait_until_begun()
        server.call(lambda: server.server.acceptor.on_waiting(server.listener, 0))
        app.release.set()
        assert busy.read_reply().status == 200
        idle.get()
        assert idle.read_reply().status == 200

    def test_one_that_still_reads_its_answer_is_not_idle(self, start: StartServer) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            return [bytes(60_000)] if environ["PATH_INFO"] == "/large" else [b"small"]

        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # for all it accepts
        listener.bind(("127.0.0.1", 0))
        server = start(app, listener, max_connections=2)
        reader = server.connect(receive_buffer=4096)
        reader.get("/large")
        reader.read_head()
        (connection,) = server.server._service.connections
        eventually(lambda: connection._cycle is None)
        used(server)
        used(server)
        assert reader.read(60_000) == bytes(60_000)


@contextmanager
def second_listener(server: Running) -> Iterator[socket.socket]:
    def change(do: Callable[[socket.socket], None]) -> None:
        server.server.acceptor.ignore()
        do(listener)
        server.server.acceptor.watch()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        listener.listen()
        server.call(lambda: change(server.server.acceptor.listeners.append))
        yield listener
        server.call(lambda: change(server.server.acceptor.listeners.remove))


class TestClientsThatLeaveAtOnce:
    def test_by_a_reset(self, start: StartServer) -> None:
        server = start(echo)

        def come_and_go() -> None:
            for _ in range(20):
                server.connect().reset()

        server.call(come_and_go)
        used(server)
        eventually(lambda: server.active == 1)

    def test_by_a_reset_after_a_request(self, start: StartServer) -> None:
        server = start(echo)

        def come_and_go() -> None:
            for _ in range(20):
                client = server.connect()
                client.get()
                client.reset()

        server.call(come_and_go)
        used(server)
        eventually(lambda: server.active == 1)

    def test_on_a_unix_socket(self, start: StartServer, tmp_path: Path) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket"))
        server = start(echo, listener)

        def come_and_go() -> None:
            for number in range(20):
                client = server.connect()
                if number % 2:
                    client.get()
                client.close()

        server.call(come_and_go)
        used(server)
        eventually(lambda: server.active == 1)


def test_a_server_with_idle_connections_hardly_runs(start: StartServer) -> None:
    server = start(echo)
    for _ in range(100):
        used(server)
    assert is_calm(server)
