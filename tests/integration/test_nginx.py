"""nginx as a reverse proxy in front of a real obworker, with connections that it keeps."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import nginx
import pytest
from libraries import POOL, Requests, Urllib3
from nginx import Nginx
from talking import Talking

pytestmark = pytest.mark.skipif(nginx.PROGRAM is None, reason=nginx.MISSING)

JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}
LARGE = bytes(range(256)) * (8 << 12)
CLIENTS = 8


@pytest.fixture
def proxy(talking_alone: Talking, tmp_path: Path) -> Iterator[Nginx]:
    with closing(Nginx(talking_alone.port, tmp_path)) as started:
        yield started


@pytest.fixture
def client(proxy: Nginx) -> Iterator[Urllib3]:
    with closing(Urllib3(proxy.url)) as library:
        yield library


def test_bodies_pass_both_ways(client: Urllib3, proxy: Nginx) -> None:
    assert client.send("/", b'{"a":1}', JSON).body == b'{"a":1}'
    for path in ("/", "/unbuffered/"):
        reply = client.send(f"{path}?case=raw", LARGE, BYTES)
        assert reply.status == 200
        assert reply.body == LARGE
    assert client.send("/", method="HEAD").status == 200
    assert client.send("/none").status == 404
    assert all("buffered to a temporary file" in line for line in proxy.complaints())


def test_chunks_that_are_not_buffered_arrive_whole(client: Urllib3) -> None:
    parts = [b"a", LARGE[: 1 << 20], b"\r\n0\r\n\r\n"]
    whole = b"".join(parts)
    reply = client.send("/unbuffered/?case=digest", parts, BYTES)
    assert json.loads(reply.body) == {
        "size": len(whole),
        "sha256": hashlib.sha256(whole).hexdigest(),
    }


def test_a_stream_arrives_part_by_part(client: Urllib3, tmp_path: Path) -> None:
    go = tmp_path / "go"
    parts = client.stream(f"/unbuffered/?case=stream&go={go}")
    assert next(parts) == b"first\n"
    go.touch()
    assert b"".join(parts) == b"second\n"


def test_one_client_needs_one_connection_behind_the_proxy(client: Urllib3) -> None:
    assert len({client.send("/?case=connection").body for _ in range(200)}) == 1


def test_many_clients_need_no_more_connections_behind_the_proxy_than_they_are(
    proxy: Nginx,
) -> None:
    def run(_: int) -> set[bytes]:
        with closing(Requests(proxy.url)) as client:
            return {client.send("/?case=connection").body for _ in range(50)}

    with ThreadPoolExecutor(CLIENTS) as threads:
        seen = set[bytes]().union(*threads.map(run, range(CLIENTS)))
    assert len(seen) <= CLIENTS


def test_no_request_fails_while_the_code_is_reloaded_behind_the_proxy(
    proxy: Nginx, talking_alone: Talking
) -> None:
    over = threading.Event()
    with closing(Urllib3(proxy.url)) as client, ThreadPoolExecutor(1) as threads:
        load = threads.submit(client.load, "/?case=connection&sleep=0.005", over)
        try:
            for _ in range(5):
                talking_alone.reload()
        finally:
            over.set()
        replies = load.result()
    assert len(replies) > POOL
    assert {reply.status for reply in replies} == {200}
    assert proxy.complaints() == []
