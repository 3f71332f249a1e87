"""async def predict and asynchronous generators, on our server and on another one."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from clients import Client, Outcome, in_parallel
from fleet import FACTORY, LISTENING
from harness import Serve, Server, eventually
from wire import TIMEOUT
from wire import Client as Wire

PREDICTOR = """
import asyncio, os, pathlib

class Predictor:
    def __init__(self):
        self.inside = self.most = 0
        self.all_here = asyncio.Event()

    async def predict(self, params):
        if "stream" in params:
            return self.items()
        if "stay" in params:
            return await self.stay()
        if "fork" in params:
            return await self.fork()
        self.inside += 1
        self.most = max(self.most, self.inside)
        if self.most == int(params["meet"]):
            self.all_here.set()
        await asyncio.wait_for(self.all_here.wait(), 20)
        await until(params.get("go"))
        self.inside -= 1
        return self.most

    async def stay(self):
        pathlib.Path("begun").touch()
        try:
            await asyncio.sleep(600)
        finally:
            pathlib.Path("ended").touch()

    async def fork(self):
        child = os.fork()
        if not child:
            await asyncio.sleep(0)
            return "child"
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            await asyncio.sleep(0.01)
        return "parent"

    async def items(self):
        try:
            yield {"n": 0}
            await until("go")
            while True:
                yield {"n": 1}
        finally:
            await asyncio.sleep(0)
            pathlib.Path("ended").touch()

async def until(name):
    while name and not pathlib.Path(name).exists():
        await asyncio.sleep(0.01)

if __name__ == "__main__":
    import obworker
    obworker.run(Predictor)
"""
EVENTS = "Accept: text/event-stream"


@pytest.fixture
def directory(model: Path) -> Path:
    (model / "predictor.py").write_text(PREDICTOR)
    return model


@pytest.fixture
def gunicorn(directory: Path, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start gunicorn with threads, and return its port."""
    servers: list[Server] = []

    def start(*options: str) -> int:
        application = f"{FACTORY}({str(directory)!r})"
        fixed = ("--bind", "127.0.0.1:0", "--no-control-socket", "--threads", "8", *options)
        program = [sys.executable, "-m", "gunicorn", *fixed, application]
        servers.append(Server(program, tmp_path / "gunicorn.log"))
        return int(servers[-1].wait_for_log(LISTENING)[1])

    yield start
    for server in servers:
        server.destroy()
        print(server.log())


def connect(port: int) -> Wire:
    return Wire(socket.create_connection(("127.0.0.1", port), TIMEOUT))


def meet(port: int, meeting: int, requests: int) -> list[int]:
    """Send requests at once that wait for each other; return how many each has seen at most."""
    clients = [Client(port, keep=False) for _ in range(requests)]
    results = in_parallel([partial(client.post, f"/?meet={meeting}") for client in clients])
    assert {result.outcome for result in results} == {Outcome.ANSWERED}, results
    return [json.loads(result.text) for result in results]


def test_one_worker_awaits_many_whatever_its_threads(serve: Serve, directory: Path) -> None:
    server = serve("--threads", "1", str(directory))
    assert max(meet(server.port, 16, 16)) == 16


def test_so_many_at_once_as_asked_for_and_not_more(serve: Serve, directory: Path) -> None:
    server = serve("--threads", "8", "--async-concurrency", "2", str(directory))
    assert set(meet(server.port, 2, 8)) == {2}


def test_limit_concurrency_is_for_coroutines_too(serve: Serve, directory: Path) -> None:
    limited = PREDICTOR.replace("__init__(self):", "__init__(self, config):").replace(
        "self.inside = self.most = 0", "config.limit_concurrency(3); self.inside = self.most = 0"
    )
    (directory / "predictor.py").write_text(limited)
    assert set(meet(serve(str(directory)).port, 3, 9)) == {3}


def test_a_predictor_run_as_a_script_awaits_many(serve: Serve, directory: Path) -> None:
    server = serve(script=directory / "predictor.py")
    assert max(meet(server.port, 4, 4)) == 4


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_another_server_awaits_as_many_as_it_has_threads(
    gunicorn: Callable[..., int], options: tuple[str, ...]
) -> None:
    assert max(meet(gunicorn(*options), 8, 8)) == 8


def test_a_coroutine_at_work_when_the_server_stops_is_answered(
    serve: Serve, directory: Path
) -> None:
    server = serve(str(directory))
    client = connect(server.port)
    client.post("/?meet=1&go=go", b"")
    assert meet(server.port, 2, 1) == [2]  # the first is in predict
    server.signal(signal.SIGTERM)
    server.wait_for_log("drain|stopping|SIGTERM")
    (directory / "go").touch()
    assert client.read_reply().body == b"2"
    client.close()
    assert server.wait() == 0


def test_events_are_sent_as_they_come(serve: Serve, directory: Path) -> None:
    client = connect(serve(str(directory)).port)
    client.post("/?stream=1", b"", EVENTS)
    status, headers = client.read_head()
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert client.read_chunk() == b'data: {"n":0}\n\n'
    (directory / "go").touch()
    assert client.read_chunk() == b'data: {"n":1}\n\n'
    client.close()


def test_a_client_that_leaves_closes_the_generator(serve: Serve, directory: Path) -> None:
    (directory / "go").touch()
    client = connect(serve(str(directory)).port)
    client.post("/?stream=1", b"")
    client.read_head()
    assert client.read_chunk() == b'{"n":0}\n'
    client.close()
    eventually((directory / "ended").exists)


def test_what_is_awaited_for_a_client_that_leaves_is_cancelled(
    serve: Serve, directory: Path
) -> None:
    client = connect(serve(str(directory)).port)
    client.post("/?stay=1", b"")
    eventually((directory / "begun").exists)
    client.reset()
    eventually((directory / "ended").exists)


def test_what_is_awaited_past_its_deadline_is_cancelled_and_its_worker_serves_on(
    serve: Serve, directory: Path
) -> None:
    server = serve("--timeout", "0.5", str(directory))
    before = server.wait_until_ready().workers()
    for _ in range(4):  # longer than a worker is waited for that has to be replaced
        client = connect(server.port)
        client.post("/?stay=1", b"")
        assert client.read_reply().status == 504
        client.close()
        eventually((directory / "ended").exists)
        (directory / "ended").unlink()
    assert max(meet(server.port, 2, 2)) == 2
    assert server.workers() == before


def test_a_process_that_a_coroutine_forked_takes_nothing_from_the_loop(
    serve: Serve, directory: Path
) -> None:
    server = serve(str(directory))
    client = connect(server.port)
    for _ in range(3):
        client.post("/?fork=1", b"")
        assert client.read_reply().body == b"parent"
    server.wait_for_log("a process that predict forked came back from it")
    client.close()


def test_another_server_closes_the_generator_too(
    gunicorn: Callable[..., int], directory: Path
) -> None:
    (directory / "go").touch()
    client = connect(gunicorn())
    client.post("/?stream=1", b"")
    client.read_head()
    assert client.read_chunk() == b'{"n":0}\n'
    client.close()
    eventually((directory / "ended").exists)
