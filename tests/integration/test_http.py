"""The protocol as a client of a real server meets it: what test_connection has, in processes."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest
from harness import Serve, Server, eventually
from wire import TIMEOUT, Client

PREDICTOR = """
import pathlib
import time

class Predictor:
    def predict(self, json):
        if "stream" in json:
            return self.count(json["stream"])
        if "wait_for" in json:
            pathlib.Path("waiting").touch()
            while not pathlib.Path(json["wait_for"]).exists():
                time.sleep(0.01)
        return json

    def count(self, size):
        try:
            for i in range(size):
                yield f"{i}\\n"
                time.sleep(0.01)
        finally:
            pathlib.Path("ended").touch()
"""
JSON = "Content-Type: application/json"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
REFUSED = [
    (b"nonsense\r\n\r\n", 400),
    (b"GET /" + b"x" * 9000, 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
    (POST + b"Content-Length: 1025\r\n\r\n", 413),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\n\r\n", 505),
    (b"GET / HTTP/1.1\r\nHost: a\r\n", 408),
]


@pytest.fixture
def echoing(model: Path) -> Path:
    (model / "predictor.py").write_text(PREDICTOR)
    return model


def connect(server: Server) -> Client:
    return Client(socket.create_connection(("127.0.0.1", server.port), TIMEOUT))


def test_pipelined_requests_are_answered_in_order(serve: Serve, echoing: Path) -> None:
    client = connect(serve(str(echoing), "--workers", "2"))
    for i in range(10):
        client.post("/", json.dumps([i]).encode(), JSON)
    assert [json.loads(client.read_reply().body) for _ in range(10)] == [[i] for i in range(10)]
    client.close()


def test_requests_that_are_refused_get_json(serve: Serve, echoing: Path) -> None:
    server = serve(str(echoing), "--limit-request-body", "1KiB", "--header-timeout", "0.5")
    for raw, status in REFUSED:
        client = connect(server)
        client.send(raw)
        reply = client.read_reply()
        assert reply.status == status, raw[:80]
        assert json.loads(reply.body)["error"]
        assert client.at_end
        client.close()
    assert server.request(body=b"[]", headers={"Content-Type": "application/json"}).body == b"[]"


def test_a_unix_socket(serve: Serve, echoing: Path, tmp_path: Path) -> None:
    path = tmp_path / "obworker.sock"
    server = serve(str(echoing), listen=("--bind", f"unix:{path}"))
    server.wait_until_ready()
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(str(path))
    client = Client(connected)
    client.post("/", b"[1]", JSON)
    assert client.read_reply().body == b"[1]"
    client.close()
    assert server.stop() == 0


def test_a_client_that_leaves_a_stream_ends_its_generator(serve: Serve, echoing: Path) -> None:
    client = connect(serve(str(echoing)))
    client.post("/", b'{"stream": 100000}', JSON)
    assert client.read_head()[0] == 200
    assert client.read_chunk() == b"0\n"
    client.close()
    eventually((echoing / "ended").exists)


def test_a_predict_at_work_when_the_server_stops_is_answered(serve: Serve, echoing: Path) -> None:
    server = serve(str(echoing))
    client = connect(server)
    client.post("/", b'{"wait_for": "go"}', JSON)
    eventually((echoing / "waiting").exists)
    server.signal(signal.SIGTERM)
    eventually(lambda: is_refused(server.port))
    (echoing / "go").touch()
    reply = client.read_reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert client.at_end
    client.close()
    assert server.wait() == 0


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0
