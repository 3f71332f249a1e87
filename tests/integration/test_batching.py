"""predict_batch behind real servers: whose answer is whose, whatever happens to the others."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import Serve, Server, eventually
from wire import TIMEOUT, Client

# A request says what becomes of it: held until there is a file of that name (and its worker's pid),
# failing alone, as a whole or by the length of the list.
PREDICTOR = """
import os
import time
from pathlib import Path

DIRECTORY = Path(__file__).parent


class Predictor:
    def batch_key(self, params):
        return params.get("key")

    def predict_batch(self, json):
        with (DIRECTORY / "begun").open("a") as begun:
            begun.write(f"{os.getpid()} {len(json)}\\n")
        go, end = DIRECTORY / f"go-{os.getpid()}", time.monotonic() + 20
        time.sleep(0.002)
        while "hold" in json and not go.exists() and time.monotonic() < end:
            time.sleep(0.01)
        if "hang" in json:
            time.sleep(60)
        if "poison" in json:
            raise ValueError("poisoned")
        if "short" in json:
            return []
        return [self.answer(x, len(json)) for x in json]

    def answer(self, x, size):
        return LookupError("bad") if x == "bad" else {"x": x, "size": size, "pid": os.getpid()}
"""

SHORT = """
class Predictor:
    def predict_batch(self, json):
        return [{"x": x} for x in json]
"""

SEMAPHORE = re.compile(r"^eventfd-count:\s+(\w+)\neventfd-id:", re.MULTILINE)


class Service:
    """A server of PREDICTOR, or of another; clients are connected for as long as it is."""

    def __init__(self, serve: Serve, model: Path, *options: str, source: str = PREDICTOR) -> None:
        (model / "predictor.py").write_text(source)
        self.model = model
        self.server: Server = serve(*options, str(model)).wait_until_ready()
        self._clients = ExitStack()

    def connect(self, count: int = 1) -> list[Client]:
        made = [
            Client(socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT))
            for _ in range(count)
        ]
        for client in made:
            self._clients.callback(client.close)
        return made

    def connect_used(self, count: int) -> list[Client]:
        """Make connections that a worker has accepted."""
        made = self.connect(count)
        for client in made:
            ask(client, "used")
            assert client.read_reply().status == 200
        return made

    @property
    def begun(self) -> list[tuple[int, int]]:
        """The pid and the size of each call."""
        path = self.model / "begun"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), int(size)) for pid, size in map(str.split, lines)]

    def hold(self, client: Client) -> int:
        """Have a worker busy until it is let go, and return its pid."""
        before = len(self.begun)
        ask(client, "hold")
        eventually(lambda: len(self.begun) > before, what="a worker that is held")
        return self.begun[-1][0]

    def let_go(self, *pids: int) -> None:
        for pid in pids:
            (self.model / f"go-{pid}").touch()

    def wait_for_queue(self, places: int, of: int) -> None:
        """Wait until so many places of the queue are taken."""
        eventually(lambda: self._free_places() == of - places, what=f"{places} that wait")

    def _free_places(self) -> int:
        for path in Path(f"/proc/{self.server.pid}/fdinfo").iterdir():
            if match := SEMAPHORE.search(path.read_text()):
                return int(match[1], 16)
        raise AssertionError("no semaphore")

    def close(self) -> None:
        self._clients.close()


@pytest.fixture
def services(serve: Serve, model: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def make(*options: str, **more: Any) -> Service:
            service = Service(serve, model, *options, **more)
            stack.callback(service.close)
            return service

        yield make


def ask(client: Client, value: object, path: str = "/", *fields: str) -> None:
    client.post(path, json.dumps(value).encode(), "Content-Type: application/json", *fields)


def together(service: Service, *values: object, paths: tuple[str, ...] = ()) -> list[Client]:
    """Send requests that have to wait for one another, and let them go; return their clients."""
    first, *clients = service.connect_used(1 + len(values))
    pid = service.hold(first)
    for number, (client, value) in enumerate(zip(clients, values, strict=True)):
        ask(client, value, paths[number] if paths else "/", f"X-Request-ID: id-{number}")
        service.wait_for_queue(number + 1, of=100)
    service.let_go(pid)
    assert first.read_reply().status == 200
    return clients


class TestOneWorker:
    def test_what_waits_is_one_call_and_each_gets_its_own_answer(self, services: Any) -> None:
        service = services()
        replies = [client.read_reply() for client in together(service, *range(12))]
        found = [json.loads(reply.body) for reply in replies]
        assert [(answer["x"], answer["size"]) for answer in found] == [
            *((x, 8) for x in range(8)),
            *((x, 4) for x in range(8, 12)),
        ]
        assert [reply.headers["x-request-id"] for reply in replies] == [
            f"id-{n}" for n in range(12)
        ]
        for n in range(12):
            service.server.wait_for_log(rf'"POST / HTTP/1.1" 200 .*\bid-{n}\b')

    def test_one_bad_item_is_one_bad_answer(self, services: Any) -> None:
        clients = together(services(), 1, "bad", 3)
        assert [client.read_reply().status for client in clients] == [200, 500, 200]

    def test_one_that_fails_the_call_fails_alone(self, services: Any) -> None:
        service = services()
        clients = together(service, 1, "poison", 3)
        assert [client.read_reply().status for client in clients] == [200, 500, 200]
        assert [size for _, size in service.begun[-4:]] == [3, 1, 1, 1]
        service.server.wait_for_log(
            r"\[id-0\+2\] predict_batch for 3 requests raised ValueError: poisoned"
        )
        assert service.server.log().count("predict raised ValueError") == 1

    def test_a_list_that_is_too_short_is_an_error_of_all(self, services: Any) -> None:
        service = services()
        clients = together(service, 1, "short", 3)
        assert [client.read_reply().status for client in clients] == [500, 500, 500]
        service.server.wait_for_log(r"\[id-2\] .*a list of 0 from predict_batch for 3 requests")

    def test_keys_are_not_mixed(self, services: Any) -> None:
        service = services()
        paths = tuple(f"/?key={n % 2}" for n in range(5))
        clients = together(service, *range(5), paths=paths)
        sizes = [json.loads(client.read_reply().body)["size"] for client in clients]
        assert sizes == [3, 2, 3, 2, 3]

    def test_a_call_that_hangs_is_504_for_all_of_it_and_ends_its_worker(
        self, services: Any
    ) -> None:
        service = services(
            *("--timeout", "1", "--max-batch-size", "3", "--max-batch-wait-ms", "20000")
        )
        before = pids(service)
        clients = service.connect(3)
        for client in clients:
            ask(client, "hang")
        assert [client.read_reply().status for client in clients] == [504, 504, 504]
        eventually(lambda: pids(service) and pids(service).isdisjoint(before), 30)
        assert service.server.log().count("took over") == 1

    def test_batches_may_be_turned_off(self, services: Any) -> None:
        service = services("--max-batch-size", "1")
        clients = together(service, *range(4))
        assert [json.loads(c.read_reply().body)["size"] for c in clients] == [1] * 4

    def test_one_may_wait_for_another(self, services: Any) -> None:
        service = services("--max-batch-size", "2", "--max-batch-wait-ms", "20000")
        first, second = service.connect(2)
        ask(first, 1)
        ask(second, 2)
        assert [json.loads(c.read_reply().body)["size"] for c in (first, second)] == [2, 2]


def pids(service: Service) -> set[int]:
    return {worker.pid for worker in service.server.workers().values()}


def test_a_free_worker_takes_a_batch_of_what_waits_at_others(services: Any) -> None:
    service = services("--workers", "2", "--max-batch-size", "4")
    service.server.wait_until_ready(2)
    clients = service.connect_used(8)
    held = [service.hold(client) for client in service.connect(2)]
    assert len(set(held)) == 2
    for number, client in enumerate(clients):
        ask(client, number)
        service.wait_for_queue(number + 1, of=200)
    service.let_go(held[1])
    answers = [json.loads(client.read_reply().body) for client in clients]
    assert {answer["pid"] for answer in answers} == {held[1]}
    assert [answer["x"] for answer in answers] == list(range(8))
    # One that came before its worker had seen that there is another may come later, by itself.
    assert max(answer["size"] for answer in answers) == 4
    assert len(service.begun) <= 8 + 2 + 3
    service.let_go(held[0])


@pytest.mark.parametrize("source", [PREDICTOR, SHORT], ids=["long calls", "short calls"])
def test_under_load_and_reloads_everybody_gets_an_answer_of_his_own(
    services: Any, source: str
) -> None:
    service = services("--workers", "2", source=source)
    over = threading.Event()
    counts, wrong = [0] * 12, []

    def keep_asking(number: int) -> None:
        (client,) = service.connect()
        while not over.is_set():
            counts[number] += 1
            value = number * 1_000_000 + counts[number]
            ask(client, value)
            reply = client.read_reply()
            if reply.status != 200 or json.loads(reply.body)["x"] != value:
                wrong.append((value, reply))

    threads = [threading.Thread(target=partial(keep_asking, n)) for n in range(len(counts))]
    for thread in threads:
        thread.start()
    for generation in (2, 3, 4):
        service.server.signal(signal.SIGHUP)
        service.server.wait_for_log(f"reloaded +generation {generation} ")
    over.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not wrong
    assert min(counts) > 10
