"""Whether a client is fast enough: the judgement as a table, and clients that are judged."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import eventually
from wire import TIMEOUT, Client, StartServer, echo

from obworker.http.pace import Pace

MIB = 1 << 20
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"

# At 10 bytes a second over 4 seconds: what has moved by which second, and when it is too slow.
TABLE: dict[str, tuple[list[tuple[float, int]], float | None]] = {
    "nothing comes": ([(1, 0), (3.9, 0), (4, 0)], 4),
    "all of it comes": ([(1, 40), (4, 41), (8, 81), (12, 121)], None),
    "just enough comes": ([(2, 20), (4, 40), (6, 60), (8, 80)], None),
    "a byte too few comes": ([(2, 20), (4, 39)], 4),
    "a byte comes now and then": ([(1, 1), (2, 2), (3, 3), (4, 4)], 4),
    "it is enough at first": ([(2, 40), (4, 80), (6, 90), (7, 110), (8, 119)], 8),
    "it pauses after a burst": ([(1, 1000), (3, 1000), (4, 1000), (4.9, 1000), (5, 1000)], 5),
    "a burst does not count for later": ([(1, 1000), (4, 1001), (6, 1010), (8, 1030)], 8),
    "it is looked at late": ([(3, 40), (9, 70), (12.9, 110), (13, 110)], None),
}


@pytest.mark.parametrize("case", TABLE)
def test_pace(case: str) -> None:
    looks, too_slow_at = TABLE[case]
    pace = Pace(10, 4.0)
    pace.start(100.0, 7)
    found = next((when for when, moved in looks if pace.is_too_slow(100 + when, 7 + moved)), None)
    assert found == too_slow_at


def test_without_a_rate_a_byte_now_and_then_is_enough() -> None:
    pace = Pace(0, 4.0)
    pace.start(0.0, 0)
    assert not any(pace.is_too_slow(second, second) for second in range(100))
    assert pace.is_too_slow(103.0, 99)


def test_every_start_begins_anew() -> None:
    """A client pauses between two requests for as long as it likes."""
    pace = Pace(10, 4.0)
    pace.start(0.0, 0)
    assert not pace.is_too_slow(1.0, 40)
    pace.start(100.0, 40)
    assert not pace.is_too_slow(103.9, 40)
    assert pace.is_too_slow(104.0, 40)


def test_what_was_not_started_is_not_judged() -> None:
    assert not Pace(10, 4.0).is_too_slow(1e9, 0)


def trickle(client: Client, seconds: float, size: int) -> None:
    """Send so many bytes every tenth of a second, for so long or until the server has enough."""
    end = time.monotonic() + seconds
    with suppress(OSError):
        while time.monotonic() < end:
            client.send(bytes(size))
            time.sleep(0.1)


def test_a_body_that_trickles_is_refused(start: StartServer) -> None:
    server = start(echo, body_timeout=1, min_body_rate=1000)
    client = server.connect()
    client.send(HEAD)
    begun = time.monotonic()
    threading.Thread(target=trickle, args=(client, 4, 10), daemon=True).start()
    assert client.read_reply().status == 408
    assert 1 <= time.monotonic() - begun < 3


def test_a_body_that_is_slow_and_fast_enough_is_read(start: StartServer) -> None:
    server = start(echo, body_timeout=0.5, min_body_rate=1000)
    client = server.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n")
    for _ in range(20):
        client.send(bytes(200))
        time.sleep(0.1)
    assert len(client.read_reply().body) == len("POST / ") + 4000


def large(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [bytes(16 * MIB)]


def test_a_client_that_reads_a_little_now_and_then_is_cut_off(start: StartServer) -> None:
    server = start(large, body_timeout=1, min_body_rate=100_000)
    client = server.connect(receive_buffer=4096)
    client.get()

    def read_on() -> bool:
        with suppress(OSError):
            client.socket.recv(500)
        return not server.active

    eventually(read_on, TIMEOUT, "the end of the connection")


def test_a_client_that_reads_nothing_of_an_answer_of_some_size_is_cut_off(
    start: StartServer,
) -> None:
    """The kernel took all of it at once, so that nothing was left to see it by."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [bytes(MIB)]

    server = start(app, body_timeout=0.5)
    client = server.connect(receive_buffer=4096)
    client.get()
    client.read_head()
    eventually(lambda: not server.active, TIMEOUT, "the end of the connection")
    assert was_reset(client)


def was_reset(client: Client) -> bool:
    """Whether a client is told that the connection has ended, although it reads nothing."""
    poll = select.poll()
    poll.register(client.socket, 0)
    return any(events & select.POLLERR for _, events in poll.poll(1000 * TIMEOUT))


def test_a_client_that_reads_slowly_and_fast_enough_gets_all(start: StartServer) -> None:
    server = start(large, body_timeout=0.5, min_body_rate=100_000)
    client = server.connect(receive_buffer=1 << 16)
    client.get()
    client.read_head()
    for _ in range(16):
        time.sleep(0.1)
        assert len(client.read(MIB)) == MIB


def test_a_unix_socket_is_judged_too(start: StartServer, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    server = start(large, listener, body_timeout=0.5, min_body_rate=100)
    client = server.connect()
    client.get()
    client.read_head()
    eventually(lambda: not server.active, TIMEOUT, "the end of the connection")
