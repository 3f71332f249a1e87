"""Whatever is sent, the parser finds the same requests in it however it is cut, or refuses it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from random import Random
from typing import Any

import httptools
import pytest
from corpus import CORPUS
from corpus.mutation import cut, mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import Collector, forget_heads

from obworker.errors import RequestError
from obworker.http.head import Head
from obworker.http.parser import Limits, Request, RequestParser

RANDOMS = st.randoms(use_true_random=False)
FUZZ = settings(max_examples=400, deadline=None, derandomize=True, database=None)
BIG = 64 << 10


def parse(
    pieces: Iterable[bytes], *, needs_bodies: bool = True
) -> tuple[list[Request], int | None]:
    collector = Collector()
    parser = RequestParser(Limits(), collector, needs_body=lambda _head: needs_bodies)
    try:
        for piece in pieces:
            parser.feed(piece)
    except RequestError as error:
        return collector.requests, error.status
    return collector.requests, None


def seen(pieces: Iterable[bytes]) -> tuple[list[Any], int | None]:
    """Return all that there is to know of the requests, and the refusal."""
    requests, status = parse(pieces)
    names = Head.__slots__
    return [[one.body, *(getattr(one.head, name) for name in names)] for one in requests], status


def singly(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


@FUZZ
@given(RANDOMS)
def test_what_is_found_does_not_depend_on_the_network(random: Random) -> None:
    raw = mutated(random)
    whole = seen([raw])
    assert seen(cut(raw, random)) == whole
    assert seen(singly(raw)) == whole


@FUZZ
@given(RANDOMS)
def test_neither_does_it_where_no_body_is_needed(random: Random) -> None:
    def seen_of(pieces: Iterable[bytes]) -> tuple[list[Any], int | None]:
        requests, status = parse(pieces, needs_bodies=False)
        return [(one.head.line, one.head.keep_alive) for one in requests], status

    raw = mutated(random)
    whole = seen_of([raw])
    assert seen_of(cut(raw, random)) == whole
    assert seen_of(singly(raw)) == whole


@FUZZ
@given(st.binary(max_size=200))
def test_neither_does_what_is_refused_of_noise(noise: bytes) -> None:
    assert seen([noise]) == seen(singly(noise))


class Llhttp:
    """What the parser of Node.js finds: method, target and body."""

    def __init__(self) -> None:
        self.found: list[tuple[str, bytes, bytes]] = []
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, raw: bytes) -> None:
        with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._parser.feed_data(raw)

    def on_message_begin(self) -> None:
        self._target = self._body = b""

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        if not self._parser.should_upgrade():  # it would end there, and we go on
            self.found.append((self._parser.get_method().decode(), self._target, self._body))


def assert_same(raw: bytes) -> None:
    """Compare what both found: a parser may refuse more, but nothing may mean something else."""
    ours = [(one.head.method, one.head.target, one.body) for one in parse([raw])[0]]
    other = Llhttp()
    other.feed(raw)
    for mine, theirs in zip(ours, other.found, strict=False):
        assert mine == theirs


@FUZZ
@given(RANDOMS)
def test_no_request_is_another_one_to_llhttp(random: Random) -> None:
    assert_same(mutated(random))


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry.name)
def test_no_entry_is_another_request_to_llhttp(entry) -> None:  # type: ignore[no-untyped-def]
    assert_same(entry.raw)


class Forgetful:
    """A receiver that keeps nothing."""

    def request_received(self, request: Request) -> None:
        pass

    def continue_expected(self) -> None:
        pass


def feed_for_long(raw: bytes) -> None:
    parser = RequestParser(Limits(body=BIG), Forgetful())
    with suppress(RequestError):
        for _ in range(max(BIG // len(raw), 1) if raw else 0):
            parser.feed(raw)


def test_memory_is_bounded_by_the_limits() -> None:
    """A body, a line that is not complete, and what is remembered."""
    random = Random(4)
    forget_heads()
    tracemalloc.start()
    try:
        for _ in range(200):
            feed_for_long(mutated(random))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * BIG
