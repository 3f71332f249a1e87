"""The libraries that people call a service with, each against a real obworker."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
from async_libraries import Aiohttp, AsyncHttpx
from libraries import POOL, Httpx, Library, Requests, Standard, Urllib3
from talking import Talking

LIBRARIES: list[type[Library]] = [Requests, Urllib3, Httpx, AsyncHttpx, Aiohttp, Standard]
JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
BYTES = {"Content-Type": "application/octet-stream"}
LARGE = bytes(range(256)) * (8 << 12)


@pytest.fixture(params=LIBRARIES, ids=lambda kind: kind.__name__)
def library(request: pytest.FixtureRequest, talking: Talking) -> Iterator[Library]:
    """Return each library in turn, with a pool to a server of two workers."""
    with closing(request.param(talking.url)) as opened:
        yield opened


def test_json_is_answered_with_json(library: Library) -> None:
    value = {"标签": ["猫", 1, 0.5, None, True]}
    reply = library.send("/", json.dumps(value).encode(), JSON)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert json.loads(reply.body) == value


def test_messagepack_is_answered_with_messagepack(library: Library) -> None:
    value = {"image": b"\x00\xff", "scores": [0.5, 1]}
    reply = library.send("/", msgpack.packb(value), MSGPACK)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/msgpack")
    assert msgpack.unpackb(reply.body) == value


def test_a_large_body_passes_both_ways(library: Library) -> None:
    reply = library.send("/?case=raw", LARGE, BYTES)
    assert (reply.status, len(reply.body)) == (200, len(LARGE))
    assert reply.body == LARGE


def test_a_body_sent_in_chunks_arrives_whole(library: Library) -> None:
    parts = [b"a", b"bc" * 5000, LARGE[: 1 << 20], b"\r\n0\r\n\r\n"]
    whole = b"".join(parts)
    reply = library.send("/?case=digest", parts, BYTES)
    assert json.loads(reply.body) == {
        "size": len(whole),
        "sha256": hashlib.sha256(whole).hexdigest(),
    }


def test_all_requests_go_over_one_connection(library: Library) -> None:
    assert len({library.send("/?case=connection").body for _ in range(100)}) == 1


def test_an_error_does_not_cost_the_connection(library: Library) -> None:
    before = library.send("/?case=connection").body
    for path, method, status in [("/none", "POST", 404), ("/", "PUT", 405)]:
        reply = library.send(path, b"[1]", JSON, method)
        assert (reply.status, list(json.loads(reply.body))) == (status, ["error"])
    assert library.send("/", method="HEAD").status == 200
    assert library.send("/?case=connection").body == before


def test_a_stream_arrives_part_by_part(library: Library, tmp_path: Path) -> None:
    go = tmp_path / "go"
    parts = library.stream(f"/?case=stream&go={go}")
    assert next(parts) == b"first\n"
    go.touch()
    assert b"".join(parts) == b"second\n"
    assert library.send("/", b"[1]", JSON).body == b"[1]"


def test_the_pool_of_urllib3_makes_one_connection(talking: Talking) -> None:
    with closing(Urllib3(talking.url)) as library:
        for _ in range(100):
            library.send("/", b"[1]", JSON)
        assert (library.pool.num_connections, library.pool.num_requests) == (1, 100)


def test_no_library_meets_an_error_while_the_code_is_reloaded(talking_alone: Talking) -> None:
    over = threading.Event()
    path = "/?case=connection&sleep=0.005"
    with ExitStack() as stack, ThreadPoolExecutor(len(LIBRARIES)) as threads:
        pools = [stack.enter_context(closing(kind(talking_alone.url))) for kind in LIBRARIES]
        loads = [threads.submit(pool.load, path, over) for pool in pools]
        try:
            for _ in range(3):
                talking_alone.reload()
        finally:
            over.set()
        for kind, load in zip(LIBRARIES, loads, strict=True):
            replies = load.result()
            assert len(replies) > POOL, kind
            assert {reply.status for reply in replies} == {200}, kind


def test_an_idle_connection_outlives_a_reload(talking_alone: Talking) -> None:
    with closing(Urllib3(talking_alone.url)) as library:
        before = library.send("/?case=connection").body
        for _ in range(3):
            talking_alone.reload()
        assert library.send("/?case=connection").body == before
        assert library.pool.num_connections == 1
