"""Every entry of the corpus has its outcome, however the network cuts it."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest
from corpus import CORPUS, Entry, Found
from wire import Client, Collector, StartServer, echo, forget_heads

from obworker.errors import RequestError
from obworker.http.parser import Limits, RequestParser

Outcome = tuple[tuple[Found, ...], int | None]
EVERY_ENTRY = pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry.name)


def outcome(pieces: Iterable[bytes], *, needs_bodies: bool = True) -> Outcome:
    collector, refusal = Collector(), None
    parser = RequestParser(Limits(), collector, needs_body=lambda _head: needs_bodies)
    try:
        for piece in pieces:
            parser.feed(piece)
    except RequestError as error:
        refusal = error.status
    found = tuple(
        Found(
            r.head.method,
            r.head.target,
            r.open_body().read() if needs_bodies else b"",
            r.head.version,
        )
        for r in collector.requests
    )
    return found, refusal


def singly(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def in_two(raw: bytes) -> Iterator[list[bytes]]:
    return ([raw[:at], raw[at:]] for at in range(1, len(raw)))


def expected(entry: Entry) -> Outcome:
    return entry.found, entry.refusal


def test_it_is_large_and_no_name_is_used_twice() -> None:
    names = Counter(entry.name for entry in CORPUS)
    assert len(CORPUS) >= 150
    assert [name for name, count in names.items() if count > 1] == []


@EVERY_ENTRY
def test_whole(entry: Entry) -> None:
    assert outcome([entry.raw]) == expected(entry)


@EVERY_ENTRY
def test_again(entry: Entry) -> None:
    """What is remembered of the first time changes nothing."""
    forget_heads()
    assert outcome([entry.raw]) == outcome([entry.raw]) == expected(entry)


@EVERY_ENTRY
def test_byte_by_byte(entry: Entry) -> None:
    assert outcome(singly(entry.raw)) == expected(entry)


@EVERY_ENTRY
def test_in_two_at_every_boundary(entry: Entry) -> None:
    for pieces in in_two(entry.raw):
        assert outcome(pieces) == expected(entry), pieces


@EVERY_ENTRY
def test_where_no_body_is_needed_it_is_the_same_however_it_is_cut(entry: Entry) -> None:
    whole = outcome([entry.raw], needs_bodies=False)
    assert outcome(singly(entry.raw), needs_bodies=False) == whole
    for pieces in in_two(entry.raw):
        assert outcome(pieces, needs_bodies=False) == whole, pieces


@EVERY_ENTRY
def test_after_a_request_that_is_in_order(entry: Entry) -> None:
    first = b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"
    found, refusal = expected(entry)
    assert outcome([first + entry.raw]) == ((Found(target=b"/first"), *found), refusal)


def statuses(client: Client) -> list[int]:
    """Read the responses up to the end of the connection; one to go on is not counted."""
    read = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", client.read_to_end())]
    return [status for status in read if status != 100]


@pytest.mark.parametrize("cut", [lambda raw: [raw], singly], ids=["whole", "singly"])
def test_over_a_socket(start: StartServer, cut) -> None:  # type: ignore[no-untyped-def]
    server = start(echo)
    for entry in CORPUS:
        client = server.connect()
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        for piece in cut(entry.raw):
            client.send(piece)
        if entry.refusal is None:  # the server would go on
            client.half_close()
        assert statuses(client) == _responses(entry), entry.name
        client.close()


def _responses(entry: Entry) -> list[int]:
    refusal = [] if entry.refusal is None else [entry.refusal]
    return [200] * len(entry.found) + refusal
