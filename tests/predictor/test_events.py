from __future__ import annotations

import dataclasses
import http.server
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest

from obworker import request_context
from obworker.predictor.events import Recorder, emit_event, flush, install, request_id

WAIT = 10.0


class Platform(http.server.ThreadingHTTPServer):
    """Stands in for the platform's recorder."""

    daemon_threads = True

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.received: queue.Queue[tuple[str, str, dict[str, Any]]] = queue.Queue()
        super().__init__(("127.0.0.1", 0), Receiver)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/events"

    def next(self) -> dict[str, Any]:
        return self.received.get(timeout=WAIT)[2]


class Receiver(http.server.BaseHTTPRequestHandler):
    server: Platform

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        event = msgpack.unpackb(body)
        self.server.received.put((self.path, self.headers["Content-Type"], event))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def platform() -> Iterator[Platform]:
    server = Platform()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    install(Recorder(server.url))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def current_request() -> Iterator[None]:
    token = request_id.set("42")
    yield
    request_id.reset(token)


@pytest.mark.usefixtures("current_request")
def test_an_event_is_posted_as_messagepack(platform: Platform) -> None:
    emit_event("score", b"\x00\xff")
    path, content_type, event = platform.received.get(timeout=WAIT)
    assert (path, content_type) == ("/events", "application/msgpack")
    assert event == {"id": 42, "name": "score", "data": b"\x00\xff"}


def test_an_id_given_wins(platform: Platform) -> None:
    emit_event("score", "x", id=7)
    assert platform.next()["id"] == 7


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (bytearray(b"a"), b"a"),
        (memoryview(b"b"), b"b"),
        ("图", "图".encode()),
        (5, b"5"),
        (2.5, b"2.5"),
        (np.float32(1.5), b"1.5"),
        (True, b"true"),
        (None, b"null"),
        ({"a": [1, b"x"]}, b'{"a":[1,"eA=="]}'),
    ],
)
def test_data_is_sent_as_bytes(platform: Platform, data: object, sent: bytes) -> None:
    emit_event("score", data, id=1)
    assert platform.next()["data"] == sent


@pytest.mark.parametrize("header", [None, "", "abc", "-1", "²", "9" * 30])
def test_without_an_integer_id_nothing_is_sent(
    platform: Platform, caplog: pytest.LogCaptureFixture, header: str | None
) -> None:
    token = request_id.set(header)
    emit_event("score", "x")
    request_id.reset(token)
    assert flush(WAIT)
    assert platform.received.empty()
    assert "event score not sent" in caplog.text


def test_data_that_cannot_be_sent_is_logged(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    emit_event("score", {1, 2}, id=1)
    assert "event score not sent: a set cannot be sent" in caplog.text


@dataclasses.dataclass
class Unfilled:
    score: float = dataclasses.field(init=False)
    more: int = 2**70  # past what the fast encoder takes


def test_data_that_is_not_what_it_seems_is_logged(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    emit_event("score", [Unfilled()], id=1)
    assert "event score not sent: 'Unfilled' object has no attribute 'score'" in caplog.text


def test_where_no_thread_can_be_had_events_wait_for_one(
    platform: Platform, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # what Python says at RLIMIT_NPROC

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        emit_event("score", "1", id=1)
    assert "events wait to be sent: can't start new thread" in caplog.text
    emit_event("score", "2", id=2)
    assert [platform.next()["data"] for _ in range(2)] == [b"1", b"2"]


def test_an_unreachable_recorder_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    install(Recorder(f"http://127.0.0.1:{port}/events"))
    emit_event("score", "x", id=1)
    assert flush(WAIT)
    assert "event score not sent" in caplog.text


def test_what_could_not_be_sent_is_logged_on_behalf_of_its_request(
    platform: Platform, messages_of: Callable[[str], list[str]]
) -> None:
    """The line comes from a thread that sends the events of all requests."""
    platform.status = 503
    with request_context.about_request("r-1"):
        emit_event("score", "x", id=1)
    assert flush(WAIT)
    (message,) = messages_of("r-1")
    assert message.startswith("event score not sent")


def test_a_recorder_that_refuses_is_logged(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.status = 503
    emit_event("score", "x", id=1)
    assert flush(WAIT)
    assert "the recorder answered 503" in caplog.text


def test_a_recorder_that_hangs_delays_nothing_and_the_queue_is_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/events"
        install(Recorder(url, timeout=0.2, max_waiting=1))
        for _ in range(3):  # at most one is being sent and one waits
            emit_event("score", "x", id=1)
        assert "event score dropped" in caplog.text
        assert not flush(0)
        assert flush(WAIT)
    assert "event score not sent: timed out" in caplog.text


def test_a_forked_child_sends_its_own(platform: Platform) -> None:
    emit_event("parent", "x", id=1)
    assert platform.next()["name"] == "parent"
    pid = os.fork()
    if pid == 0:
        emit_event("child", "x", id=1)
        os._exit(0 if flush(WAIT) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert platform.next()["name"] == "child"


def test_outside_production_it_is_logged_with_bytes_as_a_placeholder(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    emit_event("score", {"image": b"x" * 12, "boxes": [1, (memoryview(b"ab"), "c")]})
    assert "event score: {'image': <12 bytes>, 'boxes': [1, [<2 bytes>, 'c']]}" in caplog.text


def test_nothing_emitted_is_nothing_to_wait_for() -> None:
    assert flush(0)


def test_importing_obworker_loads_nothing_heavy() -> None:
    heavy = "{'werkzeug', 'flask', 'orjson', 'msgpack', 'numpy', 'onnxruntime'}"
    code = f"import sys, obworker; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
