"""What of a client's requests is whole, where another worker has received it."""

from __future__ import annotations

import io
import weakref

import pytest

from obworker.http.inbox import Inbox
from obworker.http.pace import Pace
from obworker.http.parser import Limits, on_the_heap

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: %d\r\n\r\n"


def inbox(limits: Limits | None = None) -> Inbox:
    return Inbox(limits or Limits(), Pace(0, 1.0), on_the_heap)


@pytest.mark.parametrize("body", [b"", b"{}", bytes(1 << 20)], ids=len)
def test_a_whole_request_is_taken_as_it_is(body: bytes) -> None:
    taker = inbox()
    taker.feed_whole(HEAD % len(body), body)
    (request,) = taker.requests
    assert request.body is body
    assert not taker.has_begun


def test_the_next_follows_it() -> None:
    taker = inbox()
    taker.feed_whole(HEAD % 2, b"{}")
    taker.feed(HEAD % 2 + b"[")
    assert taker.in_body
    taker.feed(b"]")
    assert [request.body for request in taker.requests] == [b"{}", b"[]"]


def test_nothing_is_kept_of_a_body_whose_client_is_lost() -> None:
    bodies = weakref.WeakSet[io.BytesIO]()

    def body_for(_length: int) -> io.BytesIO:
        bodies.add(made := io.BytesIO())
        return made

    taker = Inbox(Limits(), Pace(0, 1.0), body_for)
    taker.feed(HEAD % 2 + b"{")
    assert len(bodies) == 1
    taker.drop_all()
    assert not bodies


def test_one_that_is_too_large_here_is_refused() -> None:
    taker = inbox(Limits(body=1))
    taker.feed_whole(HEAD % 2, b"{}")
    assert taker.refusal is not None
    assert taker.refusal.status == 413
    assert not taker.requests
