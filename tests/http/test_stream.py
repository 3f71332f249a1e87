"""A client's socket on a loop that is played: what waits to be sent, and how it ends."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import cast

import pytest

from obworker.http.reactor import READ, WRITE, Reactor
from obworker.http.stream import CLOGGED_AT, Owner, Stream
from obworker.http.tls import TlsSocket

LARGE = bytes(range(256)) * 8192


class Play(Owner):
    """A stream between a reactor, its owner and a client; `heard` is what the owner was told."""

    def __init__(self, ours: socket.socket | TlsSocket, client: socket.socket) -> None:
        self.client = client
        self.heard: list[bytes | str] = []
        self.events = 0
        self.pauses = False
        self.stream = Stream(cast("Reactor", self), ours, self)

    # as a reactor

    def watch(self, _descriptor: int, events: int, on_event: Callable[[int], None]) -> None:
        self.events, self._tell = events, on_event

    def change(self, _descriptor: int, events: int) -> None:
        assert self.events != events
        self.events = events

    def forget(self, _descriptor: int) -> None:
        self.events = 0

    def happen(self, events: int) -> None:
        assert events & self.events or events & ~(READ | WRITE)
        self._tell(events)

    # as an owner

    def on_received(self, chunk: bytes) -> None:
        self.heard.append(chunk)

    def on_garbled(self, why: str) -> None:
        self.heard.append(f"garbled: {why}")

    def on_end(self) -> None:
        self.heard.append("end")

    def on_flushed(self) -> None:
        self.heard.append("flushed")
        if self.pauses:
            self.stream.pause_reading()

    def on_lost(self) -> None:
        self.heard.append("lost")

    # as a client

    def read(self) -> bytes:
        """Read all, also what waits to be sent; the end of it is `<end>`."""
        received = self._read_what_is_there()
        while self.events & WRITE:
            self.happen(WRITE)
            received += self._read_what_is_there()
        return received

    def _read_what_is_there(self) -> bytes:
        received = b""
        with suppress(BlockingIOError):
            while part := self.client.recv(1 << 20):
                received += part
            received += b"<end>"
        return received


@pytest.fixture
def play() -> Iterator[Play]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield Play(ours, theirs)


@pytest.fixture
def clogged(play: Play) -> Play:
    """Return one whose client has read nothing of what was sent."""
    play.stream.send(LARGE)
    assert play.stream.is_clogged
    return play


def test_what_the_kernel_takes_does_not_wait(play: Play) -> None:
    play.stream.send(b"a")
    assert (play.stream.unsent, play.events) == (0, READ)
    assert play.read() == b"a"
    assert play.heard == []


def test_what_it_does_not_take_is_sent_later_and_in_order(clogged: Play) -> None:
    clogged.stream.send(b"second")
    clogged.stream.send(b"third")
    assert clogged.events == READ | WRITE
    assert clogged.read() == LARGE + b"second" + b"third"
    assert clogged.heard == ["flushed"]
    assert (clogged.stream.unsent, clogged.events) == (0, READ)


def test_what_waits_is_counted_with_what_the_kernel_has(clogged: Play) -> None:
    assert CLOGGED_AT < clogged.stream.unsent == clogged.stream.kept < len(LARGE)
    assert clogged.stream.count_unsent() >= len(LARGE)
    clogged.read()
    assert clogged.stream.count_unsent() == 0


def test_a_close_waits_for_what_waits(clogged: Play) -> None:
    clogged.stream.close_when_flushed()
    assert not clogged.stream.is_closed
    assert clogged.read() == LARGE + b"<end>"
    assert clogged.heard == ["lost"]


def test_or_for_nothing(play: Play) -> None:
    play.stream.close_when_flushed()
    assert (play.stream.is_closed, play.heard) == (True, ["lost"])


def test_half_a_close_does_too_and_reading_goes_on(clogged: Play) -> None:
    clogged.stream.close_half()
    assert clogged.read() == LARGE + b"<end>"
    clogged.client.sendall(b"more")
    clogged.happen(READ)
    assert clogged.heard == ["flushed", b"more"]


def test_what_waits_is_dropped_by_a_close_and_nothing_told(clogged: Play) -> None:
    clogged.stream.close()
    clogged.stream.close()
    assert (clogged.stream.unsent, clogged.stream.count_unsent(), clogged.events) == (0, 0, 0)
    assert LARGE.startswith(clogged.read().removesuffix(b"<end>"))
    assert clogged.heard == []


def test_a_client_that_has_left_is_told_of_once(clogged: Play) -> None:
    clogged.client.close()
    clogged.happen(WRITE)
    clogged.stream.close_when_flushed()
    assert clogged.heard == ["lost"]


def test_a_client_sends_and_ends(play: Play) -> None:
    play.client.sendall(b"a")
    play.happen(READ)
    play.client.shutdown(socket.SHUT_WR)
    play.happen(READ)
    assert play.heard == [b"a", "end"]


def test_what_has_come_before_reading_is_paused_is_no_loss(clogged: Play) -> None:
    """A client that pipelined was cut off when it read and sent in the same moment."""
    clogged.pauses = True
    while clogged.events & WRITE:
        clogged.client.recv(1 << 20)
        clogged.client.send(b"x")
        clogged.happen(READ | WRITE)
    clogged.stream.resume_reading()
    clogged.happen(READ)
    assert clogged.heard[-2:] == ["flushed", b"x"]


def test_while_reading_is_paused_only_a_loss_is_heard(play: Play) -> None:
    play.stream.pause_reading()
    assert (play.stream.is_paused, play.events) == (True, 0)
    play.stream.resume_reading()
    assert (play.stream.is_paused, play.events) == (False, READ)
    play.stream.pause_reading()
    play.happen(select.EPOLLHUP)
    assert play.heard == ["lost"]


class Encrypting:
    """A TLS socket in the middle of its handshake, which is full at first."""

    ahead = 0
    has_ended = False

    def __init__(self, descriptor: int = 0) -> None:
        self.is_full = self.wants_write = True
        self.sent: list[bytes] = []
        self.arrived: list[bytes] = []
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def recv(self, _size: int) -> bytes:
        if not self.arrived:
            raise BlockingIOError
        return self.arrived.pop()

    def shutdown(self, _how: int) -> None:
        if self.is_full:
            raise BlockingIOError
        self.sent.append(b"<end>")

    def send(self, part: bytes | memoryview) -> int:
        if self.is_full:
            raise BlockingIOError
        self.sent.append(bytes(part))
        return len(part)


def test_what_is_tlss_own_is_sent_when_there_is_room(play: Play) -> None:
    tls = Encrypting()
    encrypted = Play(cast("TlsSocket", tls), play.client)
    encrypted.happen(READ)
    assert (encrypted.events, tls.sent) == (READ | WRITE, [])
    tls.is_full = False
    encrypted.happen(WRITE)
    assert (encrypted.events, tls.sent) == (READ, [b""])


def test_what_waits_is_given_to_tls_again_and_nothing_before_it(play: Play) -> None:
    tls = Encrypting()
    encrypted = Play(cast("TlsSocket", tls), play.client)
    encrypted.stream.send(b"part")
    tls.is_full = False
    encrypted.happen(WRITE)
    assert (encrypted.events, tls.sent) == (READ, [b"part"])


def test_an_end_that_comes_with_the_last_data_is_told_after_it(play: Play) -> None:
    tls = Encrypting()
    encrypted = Play(cast("TlsSocket", tls), play.client)
    tls.arrived, tls.has_ended = [b"last"], True
    encrypted.happen(READ)
    assert encrypted.heard == [b"last", "end"]


def test_half_a_close_waits_for_tlss_own_end(play: Play) -> None:
    tls = Encrypting()
    encrypted = Play(cast("TlsSocket", tls), play.client)
    encrypted.stream.close_half()
    assert (encrypted.events, tls.sent) == (READ | WRITE, [])
    tls.is_full = False
    encrypted.happen(WRITE)
    assert (encrypted.events, tls.sent) == (READ, [b"", b"<end>"])


def test_what_has_left_waits_no_longer_though_tls_is_to_be_given_it_again(play: Play) -> None:
    tls = Encrypting(play.client.fileno())
    encrypted = Play(cast("TlsSocket", tls), play.client)
    encrypted.stream.send(b"part")
    tls.ahead = 3
    assert encrypted.stream.count_unsent() == 1
