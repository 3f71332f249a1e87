from __future__ import annotations

from contextvars import ContextVar, copy_context
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest

from obworker.errors import BrokenOff, NotAcceptable
from obworker.predictor.encoding import ReplyError
from obworker.predictor.reply import is_stream, is_wsgi, render
from obworker.predictor.streaming import Stream

TEXT = "text/plain; charset=utf-8"
PNG = b"\x89PNG\r\n\x1a\n..."
JPEG = b"\xff\xd8\xff\xe0..."
PACKED = msgpack.packb({"a": b"x"})


@pytest.mark.parametrize(
    ("value", "accept", "content_type", "body"),
    [
        ({"a": b"x"}, "", "application/json", b'{"a":"eA=="}'),
        ({"a": b"x"}, "application/msgpack", "application/msgpack", PACKED),
        ({"a": b"x"}, "application/x-msgpack", "application/x-msgpack", PACKED),
        ([1, 2], "*/*", "application/json", b"[1,2]"),
        (([1], (2,)), "", "application/json", b"[[1],[2]]"),
        (5, "", "application/json", b"5"),
        (1.5, "", "application/json", b"1.5"),
        (False, "", "application/json", b"false"),
        (None, "", "application/json", b"null"),
        (None, "application/msgpack", "application/msgpack", b"\xc0"),
        (np.arange(3), "", "application/json", b"[0,1,2]"),
        (np.float32(0.5), "application/msgpack", "application/msgpack", msgpack.packb(0.5)),
        ("图", "", TEXT, "图".encode()),
        ("x", "application/json", TEXT, b"x"),
        ("x", "image/png", TEXT, b"x"),
        (np.str_("x"), "", TEXT, b"x"),
        ("\ud800", "", TEXT, b"?"),
        (b"\x00", "text/html", "application/octet-stream", b"\x00"),
        (bytearray(b"ab"), "", "application/octet-stream", b"ab"),
        (memoryview(b"abcd")[::2], "", "application/octet-stream", b"ac"),
        (b"", "", "application/octet-stream", b""),
        (PNG, "", "image/png", PNG),
        (JPEG, "application/json", "image/jpeg", JPEG),
        (memoryview(JPEG), "", "image/jpeg", JPEG),
    ],
)
def test_a_value_by_accept(value: object, accept: str, content_type: str, body: bytes) -> None:
    assert render(value, accept) == (content_type, body)


def test_nothing_acceptable() -> None:
    with pytest.raises(NotAcceptable):
        render({}, "text/html")


@pytest.mark.parametrize("value", [{1}, object(), int])
def test_another_kind_of_value_is_refused(value: object) -> None:
    assert not is_stream(value)
    assert not is_wsgi(value)
    with pytest.raises(ReplyError):
        render(value, "")


def streamed(items: Any, accept: str = "") -> tuple[dict[str, str], list[bytes]]:
    stream = Stream(iter(items), accept, copy_context(), lambda error: None, lambda: None)
    return dict(stream.headers), list(stream)


@pytest.mark.parametrize(
    ("items", "content_type", "chunks"),
    [
        (["a", "图"], TEXT, [b"a", "图".encode()]),
        ([b"a", "b"], "application/octet-stream", [b"a", b"b"]),
        ([bytearray(b"a")], "application/octet-stream", [b"a"]),
        ([PNG], "image/png", [PNG]),
        ([{"a": 1}, [2], None], "application/x-ndjson", [b'{"a":1}\n', b"[2]\n", b"null\n"]),
        ([np.float32(0.5)], "application/x-ndjson", [b"0.5\n"]),
        ([], TEXT, []),
    ],
)
def test_a_stream(items: list[object], content_type: str, chunks: list[bytes]) -> None:
    assert streamed(items) == ({"Content-Type": content_type}, chunks)


@pytest.mark.parametrize(
    ("item", "event"),
    [
        ("a", b"data: a\n\n"),
        ("a\nb\r\nc\rd", b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        ("", b"data: \n\n"),
        ("a\u2028b", "data: a\u2028b\n\n".encode()),
        ({"图": 1}, 'data: {"图":1}\n\n'.encode()),
        (None, b"data: null\n\n"),
        (b"a\xff", "data: a\ufffd\n\n".encode()),
    ],
)
def test_a_stream_of_events(item: object, event: bytes) -> None:
    headers, chunks = streamed([item, item], "text/event-stream")
    assert headers == {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
    }
    assert chunks == [event, event]


def test_only_the_first_item_is_produced_ahead() -> None:
    made = []

    def items() -> Any:
        for number in range(3):
            made.append(number)
            yield number

    stream = Stream(items(), "", copy_context(), lambda error: None, lambda: None)
    assert made == [0]
    assert (next(stream), made) == (b"0\n", [0])
    assert (next(stream), made) == (b"1\n", [0, 1])


def test_closing_closes_the_generator_and_lets_go() -> None:
    said: list[str] = []

    def items() -> Any:
        try:
            yield "a"
            yield "b"
        finally:
            said.append("closed")

    stream = Stream(items(), "", copy_context(), lambda error: None, lambda: said.append("free"))
    next(stream)
    stream.close()
    assert said == ["closed", "free"]
    assert list(stream) == []


def test_an_error_in_the_middle_is_reported_and_raised() -> None:
    def items() -> Any:
        yield "a"
        raise KeyError("k")

    reported: list[BaseException] = []
    stream = Stream(items(), "", copy_context(), reported.append, lambda: None)
    assert next(stream) == b"a"
    with pytest.raises(BrokenOff, match="KeyError"):
        next(stream)
    assert [str(error) for error in reported] == ["'k'"]
    assert list(stream) == []


def test_items_are_produced_in_the_requests_context() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="outside")
    context = copy_context()
    context.run(variable.set, "inside")

    def items() -> Any:
        yield ""
        yield variable.get()

    stream = Stream(items(), "", context, lambda error: None, lambda: None)
    assert list(stream) == [b"", b"inside"]
