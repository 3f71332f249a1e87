"""The head of a response: how its body is framed, and what an application cannot do with it."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from obworker.errors import BadRequest, RequestError
from obworker.http import response
from obworker.http.response import Framing

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


def head(
    *headers: tuple[str, str],
    status: str = "200 OK",
    keep_alive: bool = True,
    version: str = "1.1",
    chunked: bool = False,
) -> list[str]:
    """Return the lines of a head; it must end with an empty one and have no other."""
    opening, length = response.opening(status, list(headers))
    raw = response.head(
        opening,
        length=length,
        keep_alive=keep_alive,
        version=version,
        date=DATE,
        chunked=chunked,
    )
    text = raw.decode("latin-1")
    assert text.endswith("\r\n\r\n")
    lines = text.removesuffix("\r\n\r\n").split("\r\n")
    assert all(lines)
    return lines


# RFC 9112 6.3 in its order
@pytest.mark.parametrize(
    ("method", "version", "status", "length", "expected"),
    [
        ("HEAD", "1.1", 200, None, Framing.NO_BODY),
        ("HEAD", "1.1", 200, 5, Framing.NO_BODY),
        ("HEAD", "1.0", 200, None, Framing.NO_BODY),
        ("GET", "1.1", 204, None, Framing.NO_BODY),
        ("GET", "1.1", 204, 5, Framing.NO_BODY),
        ("GET", "1.0", 204, None, Framing.NO_BODY),
        ("GET", "1.1", 304, None, Framing.NO_BODY),
        ("POST", "1.1", 304, 5, Framing.NO_BODY),
        ("GET", "1.1", 200, 5, Framing.LENGTH),
        ("GET", "1.1", 200, 0, Framing.LENGTH),
        ("GET", "1.0", 200, 5, Framing.LENGTH),
        ("GET", "1.0", 200, 0, Framing.LENGTH),
        ("POST", "1.1", 500, 5, Framing.LENGTH),
        ("GET", "1.1", 200, None, Framing.CHUNKED),
        ("POST", "1.1", 404, None, Framing.CHUNKED),
        ("GET", "1.0", 200, None, Framing.CLOSE),
        ("POST", "1.0", 500, None, Framing.CLOSE),
    ],
)
def test_framing(
    method: str, version: str, status: int, length: int | None, expected: Framing
) -> None:
    assert response.framing(method, version, status, length) is expected


def test_head_in_order() -> None:
    assert head(("Content-Type", "text/plain"), ("Content-Length", "2")) == [
        "HTTP/1.1 200 OK",
        "Content-Type: text/plain",
        "Server: obworker",
        f"Date: {DATE.decode()}",
        "Content-Length: 2",
    ]


@pytest.mark.parametrize(
    ("keep_alive", "version", "expected"),
    [
        (True, "1.1", []),
        (False, "1.1", ["Connection: close"]),
        (True, "1.0", ["Connection: keep-alive"]),
        (False, "1.0", ["Connection: close"]),
    ],
)
def test_connection_field(keep_alive: bool, version: str, expected: list[str]) -> None:
    lines = head(keep_alive=keep_alive, version=version)
    assert [line for line in lines if line.startswith("Connection")] == expected


def test_chunked_is_said() -> None:
    assert "Transfer-Encoding: chunked" in head(chunked=True)


@pytest.mark.parametrize("name", ["Date", "date", "DATE", "Server", "server"])
def test_date_and_server_of_the_application_stand(name: str) -> None:
    lines = head((name, "mine"))
    assert [line for line in lines if line.lower().startswith(name.lower())] == [f"{name}: mine"]


def test_fields_may_repeat() -> None:
    assert [
        line for line in head(("Set-Cookie", "a"), ("Set-Cookie", "b")) if "Cookie" in line
    ] == [
        "Set-Cookie: a",
        "Set-Cookie: b",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "keep-alive",
        "Transfer-Encoding",
        "TRAILER",
        "upgrade",
        "te",
        "Proxy-Connection",
    ],
)
def test_hop_by_hop_fields_of_the_application_are_dropped(name: str) -> None:
    assert head((name, "x")) == head()


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nX: y", "a\rX: y", "a\0", "\r\n", "a\n", "\na"])
def test_a_value_cannot_split_the_response(value: str) -> None:
    with pytest.raises(ValueError, match="line break or a NUL"):
        head(("X-A", value))


@pytest.mark.parametrize("value", [1, None, b"a", ["a"]])
@pytest.mark.parametrize("name", ["X", "Content-Length", "content-length"])
def test_a_value_that_is_not_str_is_named(name: str, value: Any) -> None:
    """PEP 3333. Werkzeug and http.client take an int, so many write one."""
    assert f"{name.title()}: 1" in head((name.title(), "1"))
    with pytest.raises(TypeError, match=f"the value of the header {name} is not str but"):
        head((name, value))


@pytest.mark.parametrize("name", [1, None, b"Content-Length", ["X"]])
def test_so_is_a_name(name: Any) -> None:
    with pytest.raises(TypeError, match="the name of a header is not str but"):
        head((name, "1"))


@pytest.mark.parametrize("status", [200, None, b"200 OK"])
def test_and_a_status(status: Any) -> None:
    with pytest.raises(TypeError, match="the status is not str but"):
        head(status=status)


def test_a_header_that_is_no_tuple_is_named() -> None:
    with pytest.raises(TypeError, match=r"a header is not a tuple but \['X', '1'\]"):
        response.opening("200 OK", [["X", "1"]])  # type: ignore[list-item]


def test_fields_may_come_from_an_iterator() -> None:
    """They were lost without a word."""
    opening, length = response.opening("200 OK", iter([("X", "1"), ("Content-Length", "2")]))  # type: ignore[arg-type]
    assert b"X: 1\r\n" in opening.lines
    assert length == 2


def test_what_is_remembered_of_a_head_is_that_head() -> None:
    """Whatever differs makes another one."""
    first = head(("X", "a"), ("Content-Length", "1"))
    assert head(("X", "a"), ("Content-Length", "22")) == [*first[:-1], "Content-Length: 22"]
    assert head(("X", "b"), ("Content-Length", "1")) != first
    assert head(("Y", "a"), ("Content-Length", "1")) != first
    assert head(("X", "a"), ("Content-Length", "1"), status="201 Created") != first
    assert head(("X", "a"), ("Content-Length", "1")) == first


def test_heads_that_are_remembered_are_bounded() -> None:
    tracemalloc.start()
    try:
        for number in range(2000):
            head(("X", f"{number}" + "x" * 900))
            head(("X", f"{number}" + "x" * 9000))
            head(("Set-Cookie", f"{number}"))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n"])
def test_a_dropped_field_cannot_either(value: str) -> None:
    assert head(("Connection", value)) == head()


@pytest.mark.parametrize(
    "name", ["", "X Y", "X:", "X\r\nY", "X\n", "X\0", "é", "X\n: a", "(x)", "X-Ä"]
)
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    for _ in range(2):  # the answer is not a matter of what is cached
        with pytest.raises(ValueError, match="not a token"):
            head((name, "a"))


@pytest.mark.parametrize(
    "status",
    ["", "OK", "20 OK", "2000 OK", "200OK", "200 O\rK", "200 OK\r\nX: y", "200 OK\n", "200 \0",
     "099 No", "100 Continue", "101 Switching Protocols", " 200 OK", "200\tOK"],
)  # fmt: skip
def test_a_status_that_is_none_is_refused(status: str) -> None:
    with pytest.raises(ValueError, match="status"):
        head(status=status)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("200", "HTTP/1.1 200 "),
        ("200 ", "HTTP/1.1 200 "),
        ("404 Not Found", "HTTP/1.1 404 Not Found"),
        ("200 caf\xe9", "HTTP/1.1 200 caf\xe9"),
        ("999 Beyond", "HTTP/1.1 999 Beyond"),
    ],
)
def test_status_line(status: str, line: str) -> None:
    assert head(status=status)[0] == line


def test_a_value_is_latin_1_or_an_error() -> None:
    assert "X: caf\xe9" in head(("X", "caf\xe9"))
    with pytest.raises(ValueError, match="latin-1"):
        head(("X", "中"))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("X", "1")], None),
        ([("content-LENGTH", "12")], 12),
        ([("Content-Length", "0")], 0),
    ],
)
def test_declared_length(headers: list[tuple[str, str]], expected: int | None) -> None:
    assert response.opening("200 OK", headers)[1] == expected


@pytest.mark.parametrize(
    "values", [["1", "2"], ["1", "1"], ["1"] * 3, ["-1"], ["+1"], [" 1"], ["1_0"], [""], ["٣"]]
)
def test_a_length_that_is_not_one_number_is_refused(values: list[str]) -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        response.opening("200 OK", [("Content-Length", value) for value in values])


@pytest.mark.parametrize("value", ["-1", "1x", "٣"])
def test_nor_is_it_beside_fields_that_repeat(value: str) -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        response.opening("200 OK", [("Content-Length", value), *[("Set-Cookie", "a")] * 2])


def test_two_lengths_are_refused_however_they_are_spelled() -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        response.opening("200 OK", [("Content-Length", "1"), ("content-length", "1")])


def test_chunk_has_its_size_in_hexadecimal() -> None:
    assert response.chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_date_is_rfc_9110_5_6_7() -> None:
    assert response.http_date(784111777) == DATE


@pytest.mark.parametrize("method", ["", "GET", "POST"])
def test_error_is_json_and_closes(method: str) -> None:
    error = BadRequest("no \N{SNOWMAN} \r\n here")
    raw = response.error_response(error, method=method, date=DATE)
    first, _, body = raw.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n")
    assert f"Content-Length: {len(body)}".encode() in first
    assert first.endswith(b"Connection: close")
    assert json.loads(body) == {"error": "no \N{SNOWMAN} \r\n here"}
    assert response.body_size(raw) == len(body)


def test_error_for_head_has_no_body() -> None:
    raw = response.error_response(RequestError("y"), method="HEAD", date=DATE)
    assert raw.endswith(b"\r\n\r\n")
    assert b"Content-Length: 13" in raw
