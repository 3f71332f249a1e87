"""What of a client's requests is whole, where another worker has received it."""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable

import pytest

from obworker.http.inbox import MOST_REQUESTS, Inbox
from obworker.http.pace import Pace
from obworker.http.parser import MOST_DROPPED, Limits

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: %d\r\n\r\n"


def inbox(
    limits: Limits | None = None,
    body_for: Callable[[int], io.BytesIO] = lambda _length: io.BytesIO(),
    *,
    needs_body: bool = True,
) -> Inbox:
    return Inbox(limits or Limits(), Pace(0, 1.0), body_for, lambda _head: needs_body)


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


def test_of_what_comes_at_once_no_more_is_parsed_than_some_requests() -> None:
    """It took 46 ms of the loop's time, and thirty times the memory of what had come."""
    taker, sizes = inbox(), []
    requests = [HEAD % size + bytes(size) for size in range(1000)]
    taker.feed(b"".join(requests[:500]) + requests[500][:-1])
    taker.feed(requests[500][-1:] + b"".join(requests[501:]) + b"\0")
    while taker.requests:
        assert len(taker.requests) <= MOST_REQUESTS
        sizes.append(len(taker.take().body))
    assert sizes == list(range(1000))
    assert taker.refusal is not None


def test_a_body_for_which_there_is_no_memory_is_refused() -> None:
    class Full(io.BytesIO):
        def write(self, _part: object) -> int:
            raise MemoryError

    taker = Inbox(Limits(), Pace(0, 1.0), lambda _length: Full(), lambda _head: True)
    taker.feed(HEAD % 2 + b"{")
    assert taker.refusal is not None
    assert taker.refusal.status == 503


def test_nothing_is_kept_of_a_body_whose_client_is_lost() -> None:
    bodies = weakref.WeakSet[io.BytesIO]()

    def body_for(_length: int) -> io.BytesIO:
        bodies.add(made := io.BytesIO())
        return made

    taker = inbox(body_for=body_for)
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


@pytest.mark.parametrize("size", [2, MOST_DROPPED + 1], ids=["small", "large"])
def test_one_whose_body_is_not_needed_here_is_whole_without_it(size: int) -> None:
    """The worker that received it had other API keys."""
    taker = inbox(needs_body=False)
    taker.feed_whole(HEAD % size, bytes(size))
    (request,) = taker.requests
    assert (request.body, taker.in_body) == (b"", False)
    assert request.head.keep_alive is (size <= MOST_DROPPED)


def test_what_drops_a_body_is_not_empty() -> None:
    """Another worker would take the rest of the body for a request."""
    taker = inbox(needs_body=False)
    taker.feed(HEAD % 2 + b"{")
    taker.requests.clear()
    assert not taker.is_empty
    taker.feed(b"}")
    assert taker.is_empty
