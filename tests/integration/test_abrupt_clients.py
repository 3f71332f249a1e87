"""Clients that send all at once, close one half, or leave in the middle, by raw sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import eventually
from talking import Talking
from wire import TIMEOUT, Client

JSON = "Content-Type: application/json"
HEAD = b"POST /?case=raw HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED = b"POST /?case=raw HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
# ESTABLISHED and CLOSE_WAIT, as /proc/net/tcp writes them
OPEN = ("01", "08")
LARGE = "/?case=large&size=33554432"


def connect(server: Talking) -> Client:
    return Client(socket.create_connection(("127.0.0.1", server.port), TIMEOUT))


def answer(server: Talking) -> bytes:
    return server.request(body=b"[1]", headers={"Content-Type": "application/json"}).body


def descriptors(server: Talking) -> dict[int, int]:
    return {slot: process.num_fds() for slot, process in server.workers().items()}


def connections(server: Talking) -> list[int]:
    """Return for each open connection to the server how many bytes of it nobody has read yet.

    Those that were reset are not among them, whoever holds a descriptor (proc_net_tcp.txt).
    """
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        int(queues.partition(":")[2], 16)
        for _, local, _, state, queues, *_ in rows
        if int(local.partition(":")[2], 16) == server.port and state in OPEN
    ]


def test_a_hundred_requests_in_one_write_are_answered_in_order(talking: Talking) -> None:
    bodies = [b"[%d]" % number for number in range(100)]
    head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    client = connect(talking)
    client.send(*(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in bodies))
    client.half_close()
    assert [client.read_reply().body for _ in bodies] == bodies
    assert client.at_end
    client.close()


def test_a_client_that_closed_its_half_after_the_request_is_answered(
    talking: Talking, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    client = connect(talking)
    client.post(f"/?case=hold&begun={begun}&go={go}", b"")
    client.half_close()
    eventually(begun.exists)
    go.touch()
    assert client.read_reply().body == b"held"
    assert client.at_end
    client.close()


@pytest.mark.parametrize(
    "beginning", [b"", b"POST / HT", HEAD, HEAD + b"part", CHUNKED + b"4\r\npa"]
)
def test_a_client_that_closed_its_half_before_the_end_of_the_request_is_let_go(
    talking: Talking, beginning: bytes
) -> None:
    client = connect(talking)
    client.send(beginning)
    client.half_close()
    assert not client.read_to_end().startswith(b"HTTP/1.1 2")
    client.close()
    assert answer(talking) == b"[1]"


def leave_unasked(client: Client, directory: Path) -> None:
    client.reset()


def leave_in_the_head(client: Client, directory: Path) -> None:
    client.send(HEAD[:-10])
    client.reset()


def leave_in_the_body(client: Client, directory: Path) -> None:
    client.send(HEAD, bytes(500_000))
    client.reset()


def leave_in_a_chunk(client: Client, directory: Path) -> None:
    client.send(CHUNKED, b"fffff\r\n", bytes(500_000))
    client.reset()


def leave_in_the_answer(client: Client, directory: Path) -> None:
    client.post(LARGE, b"")
    client.read(1000)
    client.reset()


def leave_in_a_stream(client: Client, directory: Path) -> None:
    client.post(f"/?case=stream&go={directory / 'go'}", b"")
    client.read_head()
    assert client.read_chunk() == b"first\n"
    client.reset()
    (directory / "go").touch()


def leave_in_predict(client: Client, directory: Path) -> None:
    client.post(f"/?case=hold&begun={directory / 'begun'}&go={directory / 'go'}", b"")
    eventually((directory / "begun").exists)
    client.reset()
    (directory / "go").touch()


def leave_with_more_to_come(client: Client, directory: Path) -> None:
    for _ in range(10):
        client.post("/", b"[1]", JSON)
    client.reset()


@pytest.mark.parametrize(
    "leave",
    [
        leave_unasked,
        leave_in_the_head,
        leave_in_the_body,
        leave_in_a_chunk,
        leave_in_the_answer,
        leave_in_a_stream,
        leave_in_predict,
        leave_with_more_to_come,
    ],
)
def test_clients_that_leave_with_a_reset_leave_nothing_behind(
    talking: Talking, tmp_path: Path, leave: Callable[[Client, Path], None]
) -> None:
    def leave_often(name: str) -> None:
        for number in range(10):
            directory = tmp_path / f"{name}-{number}"
            directory.mkdir()
            leave(connect(talking), directory)
        eventually(lambda: not connections(talking), what="the end of all connections")

    leave_often("warm-up")  # whatever a worker opens once is open now
    workers, before = talking.workers(), descriptors(talking)
    leave_often("then")
    assert answer(talking) == b"[1]"
    eventually(lambda: descriptors(talking) == before, what=f"descriptors as before: {before}")
    assert talking.workers() == workers


def test_a_request_that_waits_and_whose_client_has_left_is_never_computed(
    talking: Talking, tmp_path: Path
) -> None:
    go, late = tmp_path / "go", tmp_path / "late"
    holders = []
    for begun in (tmp_path / "first", tmp_path / "second"):
        holders.append(connect(talking))
        holders[-1].post(f"/?case=hold&begun={begun}&go={go}", b"")
        eventually(begun.exists, what="a worker at work")
    waiting = [connect(talking) for _ in range(6)]
    for client in waiting:
        client.post(f"/?case=hold&begun={late}&go={go}", b"")
    eventually(lambda: connections(talking) == [0] * 8, what="the reading of all requests")
    for client in waiting:
        client.reset()
    eventually(lambda: connections(talking) == [0] * 2, what="the end of those that left")
    go.touch()
    assert [holder.read_reply().body for holder in holders] == [b"held"] * 2
    assert answer(talking) == b"[1]"
    assert not late.exists()
    for holder in holders:
        holder.close()
