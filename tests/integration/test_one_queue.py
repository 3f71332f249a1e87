"""Several workers, one queue: whoever is free answers, whichever worker has the connection.

Connections are made while there is one worker, which so has them all, and then there are more.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from harness import Serve, Server, command, eventually
from wire import TIMEOUT, Client, Reply

PREDICTOR = """
import os
import time
from pathlib import Path

DIRECTORY = Path(__file__).parent


class Predictor:
    def predict(self, request):
        number = request.args.get("n", "")
        with (DIRECTORY / "begun").open("a") as begun:
            begun.write(number + "\\n")
        time.sleep(float(request.args.get("sleep", 0)))
        go, end = DIRECTORY / "go", time.monotonic() + 20
        while request.args.get("hold") and not go.exists() and time.monotonic() < end:
            time.sleep(0.01)
        size = len(request.data)
        return {"pid": os.getpid(), "n": number, "size": size, "method": request.method}
"""

SEMAPHORE = re.compile(r"^eventfd-count:\s+(\w+)\neventfd-id:", re.MULTILINE)


class Service:
    """A server of which the first worker has every connection."""

    def __init__(self, serve: Serve, model: Path, *options: str, code: str = "") -> None:
        (model / "predictor.py").write_text(PREDICTOR + code)
        self._model = model
        self._clients: list[Client] = []
        self.server: Server = serve("--workers", "1", *options, str(model)).wait_until_ready()
        self._first = self.server.workers()[0].pid

    def connect(self, count: int, wrap: ssl.SSLContext | None = None) -> list[Client]:
        """Make connections, each of which has been used once."""
        made = [self._connect(wrap) for _ in range(count)]
        for client in made:
            ask(client, "/?n=first")
            assert client.read_reply().status == 200
        self._clients += made
        return made

    def _connect(self, wrap: ssl.SSLContext | None) -> Client:
        connected = socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT)
        if wrap is not None:
            connected = wrap.wrap_socket(connected, server_hostname="localhost")
        return Client(connected)

    def scale(self, workers: int) -> set[int]:
        """Have so many workers, and return the pids of those that there were not."""
        for _ in range(workers - 1):
            self.change(signal.SIGTTIN)
        self.server.wait_until_ready(workers)
        return {worker.pid for worker in self.server.workers().values()} - {self._first}

    def change(self, number: signal.Signals) -> None:
        """Have a worker more, or one less."""
        before = set(self.server.workers())
        self.server.signal(number)
        eventually(lambda: set(self.server.workers()) != before, what="another set of workers")

    @property
    def begun(self) -> list[str]:
        """The numbers of the requests that predict has begun with."""
        path = self._model / "begun"
        return [n for n in path.read_text().split() if n != "first"] if path.exists() else []

    def hold(self, *clients: Client) -> None:
        """Have a worker busy for each client, until they are let go."""
        for number, client in enumerate(clients):
            ask(client, f"/?hold=1&n=h{number}")
            eventually(partial(self._has_begun, f"h{number}"), what="a worker that is held")

    def _has_begun(self, number: str) -> bool:
        return number in self.begun

    def let_go(self) -> None:
        (self._model / "go").touch()

    @property
    def places(self) -> int:
        """How many more requests may wait."""
        for path in Path(f"/proc/{self.server.pid}/fdinfo").iterdir():
            with suppress(FileNotFoundError):
                if match := SEMAPHORE.search(path.read_text()):
                    return int(match[1], 16)
        raise AssertionError("no semaphore")

    def close(self) -> None:
        for client in self._clients:
            client.close()


Start = Callable[..., Service]


@pytest.fixture
def start(serve: Serve, model: Path) -> Iterator[Start]:
    services: list[Service] = []

    def start(*options: str, code: str = "") -> Service:
        services.append(Service(serve, model, *options, code=code))
        return services[-1]

    yield start
    for service in services:
        service.close()


def ask(client: Client, path: str = "/") -> None:
    client.post(path, b"")


def answer(client: Client) -> dict[str, Any]:
    """Read the answer of predict."""
    reply = client.read_reply()
    assert reply.status == 200, reply
    said: dict[str, Any] = json.loads(reply.body)
    return said


def test_every_worker_has_its_share_whoever_has_the_connections(start: Start) -> None:
    service = start()
    clients = service.connect(8)
    others = service.scale(4)
    begun, pids = time.monotonic(), []
    for _ in range(3):
        for client in clients:
            ask(client, "/?sleep=0.1")
        pids += [answer(client)["pid"] for client in clients]
    took = time.monotonic() - begun
    assert others < set(pids)
    assert max(pids.count(pid) for pid in set(pids)) <= 12  # of 24, where 6 is a fair share
    assert took < 1.6  # and 2.4 s for one worker
    assert service.server.stop() == 0


def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    service = start()
    clients = service.connect(4)
    service.scale(3)
    for client in clients:
        for number in range(6):
            ask(client, f"/?sleep=0.02&n={number}")
    for client in clients:
        assert [answer(client)["n"] for _ in range(6)] == list("012345")


def test_a_request_whose_client_has_left_the_queue_is_not_computed(start: Start) -> None:
    service = start()
    *holding, leaving, staying = service.connect(4)
    service.scale(2)
    free = service.places
    service.hold(*holding)
    ask(leaving, "/?n=left")
    ask(staying, "/?n=stayed")
    eventually(lambda: service.places == free - 2, what="two requests in the queue")
    leaving.reset()
    service.let_go()
    assert answer(staying)["n"] == "stayed"
    assert "left" not in service.begun
    eventually(lambda: service.places == free, what="all places")


def test_what_waits_for_any_worker_is_not_passed_by_what_cannot_move(start: Start) -> None:
    """Two that pipeline kept their worker from the exchange for as long as they went on."""
    service = start()
    first, second, waiting, *greedy = service.connect(5)
    service.scale(2)
    free = service.places
    for number, client in enumerate((first, second)):
        ask(client, f"/?n=long{number}&sleep={1 + 4 * number}")
        eventually(lambda: f"long{number}" in service.begun, what="a long call")  # noqa: B023
    ask(waiting, "/?n=waited")
    eventually(lambda: service.places == free - 1, what="a request in the exchange")
    for client in greedy:
        client.send(
            20 * b"POST /?n=later&sleep=0.05 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        )
    assert answer(waiting)["n"] == "waited"
    assert service.begun[:3] == ["long0", "long1", "waited"]


def chunked(client: Client) -> None:
    client.send(b"POST /?n=c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(10):
        client.send(b"2710\r\n", bytes(10000), b"\r\n")
    client.send(b"0\r\n\r\n")


OLD = b"POST / HTTP/1.0\r\nContent-Length: 2\r\nConnection: %s\r\n\r\nhi"
WAYS: dict[str, tuple[Callable[[Client], None], int, str]] = {
    "small": (lambda client: client.post("/", b"hello"), 5, "POST"),
    "a megabyte": (lambda client: client.post("/", bytes(1 << 20)), 1 << 20, "POST"),
    "chunked": (chunked, 100_000, "POST"),
    "HTTP/1.0": (lambda client: client.send(OLD % b"close"), 2, "POST"),
    "HTTP/1.0 kept": (lambda client: client.send(OLD % b"keep-alive"), 2, "POST"),
    "at the limit": (lambda client: client.post("/", b"", f"X-Long:{'x' * 8183}"), 0, "POST"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_request_of_any_kind_goes_to_whoever_is_free(start: Start, way: str) -> None:
    service = start()
    holding, client = service.connect(2)
    (other,) = service.scale(2)
    service.hold(holding)
    send, size, method = WAYS[way]
    send(client)
    said = answer(client)
    assert (said["pid"], said["size"], said["method"]) == (other, size, method)
    if way != "HTTP/1.0":
        ask(client, "/?n=next")
        assert answer(client)["pid"] == other
    service.let_go()
    assert answer(holding)["n"] == "h0"


def test_one_that_waits_for_leave_to_send_goes_when_it_has_sent(start: Start) -> None:
    service = start()
    holding, client = service.connect(2)
    (other,) = service.scale(2)
    service.hold(holding)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    client.send(head)
    assert client.read_line() == b"HTTP/1.1 100 Continue\r\n"
    assert client.read_line() == b"\r\n"
    client.send(b"hello")
    said = answer(client)
    assert (said["pid"], said["size"]) == (other, 5)
    service.let_go()


def test_what_needs_no_predict_waits_for_nobody(start: Start) -> None:
    service = start()
    *holding, client = service.connect(3)
    service.scale(2)
    service.hold(*holding)
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    reply = client.read_reply("HEAD")
    assert (reply.status, reply.body) == (200, b"")
    service.let_go()


def assert_is_turned_away(reply: Reply, saying: str) -> None:
    """Check that it is a 503 after which the client may try again on the same connection."""
    assert reply.status == 503
    assert saying in json.loads(reply.body)["error"]
    assert int(reply.headers["retry-after"]) > 0
    assert "connection" not in reply.headers


def test_what_waits_longer_than_the_queue_timeout_gets_503(start: Start) -> None:
    service = start("--queue-timeout", "0.5")
    *holding, first, second = service.connect(4)
    service.scale(2)
    free = service.places
    service.hold(*holding)
    begun = time.monotonic()
    ask(first)
    ask(second)
    for client in (first, second):
        assert_is_turned_away(client.read_reply(), "free in time")
    service.server.wait_for_log("503: no worker was free in time, see --queue-timeout")
    assert 0.5 <= time.monotonic() - begun < 2
    eventually(lambda: service.places == free, what="all places")
    service.let_go()
    ask(first, "/?n=again")
    assert answer(first)["n"] == "again"


@pytest.mark.parametrize(("places", "workers"), [(0, 1), (2, 2)])
def test_what_finds_no_place_gets_503_at_once(start: Start, places: int, workers: int) -> None:
    service = start("--max-queue", str(places))
    turned_away, *holding = service.connect(1 + workers)
    waiting = service.connect(places)
    service.scale(workers)
    service.hold(*holding)
    for client in waiting:
        ask(client, "/?n=waited")
    eventually(lambda: service.places == 0, what="a full queue")
    begun = time.monotonic()
    for _ in range(3):
        ask(turned_away)
        assert_is_turned_away(turned_away.read_reply(), "wait already")
    assert time.monotonic() - begun < 1
    service.let_go()
    assert [answer(client)["n"] for client in holding] == ["h0", "h1"][:workers]
    assert [answer(client)["n"] for client in waiting] == ["waited"] * places
    ask(turned_away, "/?n=again")
    assert answer(turned_away)["n"] == "again"
    eventually(lambda: service.places == places, what="all places")
    service.server.wait_for_log(r'" 503 [1-9]\d* .* queued=')
    service.server.wait_for_log("refused a request with 503: the queue was full, see --max-queue")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_gives_back_the_places_of_what_waited(
    start: Start, workers: int
) -> None:
    """With one, all waits within it; with two, what is pipelined does, and the rest lives on."""
    service = start("--max-queue", "3")
    holding, *waiting = service.connect(3)
    service.scale(workers)
    service.hold(holding)
    for client in waiting:
        ask(client, "/?hold=1&n=a")
        if workers == 2:
            ask(client, "/?n=b")
    eventually(lambda: service.places < 3, what="requests that wait")
    service.server.workers()[0].kill()
    service.let_go()
    eventually(lambda: service.places == 3, what="all places")
    assert service.server.stop() == 0


# It has done something with what all workers share, and is killed before it can tell of it.
KILLED_AFTER = """
import signal
from obworker.http.exchange import Exchange


def killing(method):
    def call(self, *arguments):
        result = method(self, *arguments)
        if result and (DIRECTORY / "kill").exists():
            (DIRECTORY / "kill").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


Exchange.{0} = killing(Exchange.{0})
"""


@pytest.mark.parametrize("after", ["reserve", "put", "take"])
def test_a_worker_that_is_killed_between_two_steps_keeps_no_place(
    start: Start, model: Path, after: str
) -> None:
    service = start("--max-queue", "1", code=KILLED_AFTER.format(after))
    first, second, waiting = service.connect(3)
    service.scale(2)
    service.hold(first, second)
    if after == "take":
        ask(waiting)
        eventually(lambda: service.places == 0, what="a request that waits")
    (model / "kill").touch()
    if after == "take":
        service.let_go()
    else:
        ask(waiting)
    eventually(lambda: not (model / "kill").exists(), what="a worker that is killed")
    service.let_go()
    eventually(lambda: service.places == 1, what="the place")
    assert service.server.stop() == 0


def reload(control: Path) -> None:
    program = command("reload", "--wait", "--control-socket", str(control))
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


RELOADS = 5


def test_reloads_close_no_idle_connection(start: Start, tmp_path: Path) -> None:
    control = tmp_path / "control"
    service = start("--control-socket", str(control))
    clients = service.connect(32)
    service.scale(2)
    for number in range(RELOADS):
        reload(control)
        for client in clients[number % 2 :: 2]:
            ask(client, f"/?n={number}")
        for client in clients[number % 2 :: 2]:
            assert answer(client)["n"] == str(number)
    for client in clients:
        ask(client, "/?n=last")
        assert answer(client)["n"] == "last"


class Callers:
    """Clients that ask over connections of the first worker, one question after the other."""

    def __init__(self, clients: list[Client], path: str) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._path = path
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(client,), daemon=True) for client in clients
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, client: Client) -> None:
        while not self._is_over.is_set():
            try:
                ask(client, self._path)
                answer(client)
            except (OSError, AssertionError, ValueError) as error:
                self.failed.append(repr(error))
                return
            self.answered += 1

    def go_on(self) -> None:
        """Wait until some more are answered."""
        enough = self.answered + 40
        eventually(lambda: self.answered > enough or self.failed, what="more answers")

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def test_a_worker_that_is_killed_takes_nothing_with_it_but_what_it_computes(start: Start) -> None:
    service = start()
    clients = service.connect(8)
    others = service.scale(3)
    free = service.places
    computed, waiting = clients[:3], clients[3:]
    service.hold(*computed)
    for client in waiting:
        ask(client, "/?n=waited")
    eventually(lambda: service.places == free - len(waiting), what="a queue")
    next(w for w in service.server.workers().values() if w.pid in others).kill()
    service.let_go()
    assert sorted(map(is_answered, computed)) == [False, True, True]
    assert [answer(client)["n"] for client in waiting] == ["waited"] * len(waiting)
    assert service.places == free
    assert service.server.stop() == 0


def is_answered(client: Client) -> bool:
    try:
        answer(client)
    except (OSError, AssertionError):
        return False
    return True


def test_workers_come_and_go_under_load(start: Start) -> None:
    service = start()
    clients = service.connect(8)
    service.scale(3)
    callers = Callers(clients, "/?sleep=0.02")
    for number in (signal.SIGTTOU, signal.SIGTTOU, signal.SIGTTIN, signal.SIGTTIN) * 2:
        service.change(number)
        callers.go_on()
    callers.stop()
    assert callers.failed == []
    assert service.server.stop() == 0


def test_a_stop_answers_what_is_in_the_queue(start: Start) -> None:
    service = start()
    *holding, a, b, c, d, e, f = service.connect(8)
    service.scale(2)
    free = service.places
    service.hold(*holding)
    waiting = [a, b, c, d, e, f]
    for client in waiting:
        ask(client, "/?sleep=0.05&n=waited")
    eventually(lambda: service.places == free - 6, what="six requests in the queue")
    service.server.signal(signal.SIGTERM)
    service.let_go()
    assert [answer(client)["n"] for client in holding] == ["h0", "h1"]
    for client in waiting:
        reply = client.read_reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert service.server.wait() == 0


def test_a_stop_that_comes_to_its_end_tells_those_in_the_queue(start: Start) -> None:
    service = start("--graceful-timeout", "3")
    *holding, waiting = service.connect(3)
    service.scale(2)
    free = service.places
    service.hold(*holding)
    ask(waiting)
    eventually(lambda: service.places == free - 1)
    service.server.signal(signal.SIGTERM)
    assert waiting.read_reply().status == 503
    service.let_go()
    service.server.wait()
    assert "503: this worker was about to end, see --timeout and" in service.server.log()


def test_an_encrypted_connection_waits_where_it_is(start: Start, tmp_path: Path) -> None:
    """Its keys cannot move; that costs time and nothing else."""
    authority = Authority(tmp_path)
    issued = authority.issue("server")
    service = start("--certfile", str(issued.cert), "--keyfile", str(issued.key))
    trust = ssl.create_default_context(cafile=str(authority.own.cert))
    clients = service.connect(6, trust)
    service.scale(2)
    for client in clients:
        ask(client, "/?sleep=0.05&n=tls")
    assert [answer(client)["n"] for client in clients] == ["tls"] * 6
    assert service.server.stop() == 0


def test_a_stop_during_a_reload_ends_the_connections_of_the_old_workers(start: Start) -> None:
    """They moved to the others, which had ended by then, and the next request on them was lost."""
    service = start()
    (client,) = service.connect(1)
    service.hold(client)
    service.server.signal(signal.SIGHUP)
    service.server.wait_until_ready(2)
    service.server.signal(signal.SIGTERM)
    service.server.wait_for_log(r"worker 0 +stopped")
    service.let_go()
    reply = client.read_reply()
    assert (reply.status, reply.headers.get("connection")) == (200, "close")
    assert service.server.wait() == 0
