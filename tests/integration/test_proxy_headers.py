"""What a predictor learns of a client behind a proxy."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from harness import Serve
from wire import TIMEOUT, Client

PREDICTOR = """
class Predictor:
    def predict(self, request):
        names = ("REMOTE_ADDR", "wsgi.url_scheme", "SERVER_PORT", "HTTP_X_FORWARDED_FOR")
        return [request.environ[name] for name in names]
"""
FIELDS = {
    "X-Forwarded-For": "198.51.100.1, 203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "443",
}


@pytest.fixture
def proxied(model: Path) -> Path:
    (model / "predictor.py").write_text(PREDICTOR)
    return model


def test_a_trusted_proxy_is_believed(serve: Serve, proxied: Path) -> None:
    server = serve("--proxy-headers", str(proxied))
    seen = json.loads(server.request(headers=FIELDS).body)
    assert seen == ["203.0.113.9", "https", "443", FIELDS["X-Forwarded-For"]]


@pytest.mark.parametrize("argv", [(), ("--proxy-headers", "--forwarded-allow-ips", "10.0.0.0/8")])
def test_nobody_else_is(argv: tuple[str, ...], serve: Serve, proxied: Path) -> None:
    server = serve(*argv, str(proxied))
    seen = json.loads(server.request(headers=FIELDS).body)
    assert seen == ["127.0.0.1", "http", str(server.port), FIELDS["X-Forwarded-For"]]


def test_whoever_may_open_a_unix_socket_is(serve: Serve, proxied: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = serve("--proxy-headers", str(proxied), listen=("--bind", f"unix:{path}"))
    server.wait_until_ready()
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(TIMEOUT)
        connected.connect(str(path))
        client = Client(connected)
        client.post("/", b"", *(f"{name}: {value}" for name, value in FIELDS.items()))
        assert json.loads(client.read_reply("POST").body)[0] == "203.0.113.9"
        client.close()
