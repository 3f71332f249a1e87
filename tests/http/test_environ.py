"""A request becomes the environ that PEP 3333 describes."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from wire import Collector

from obworker.http.environ import base_environ, make_environ
from obworker.http.parser import Limits, RequestParser


def environ_of(raw: bytes) -> dict[str, Any]:
    collector = Collector()
    RequestParser(Limits(), collector).feed(raw)
    base = base_environ(("127.0.0.1", 8000), ("10.0.0.1", 5000))
    (request,) = collector.requests
    return make_environ(base, request)


def environ_of_get(target: str = "/", *fields: bytes) -> dict[str, Any]:
    lines = [f"GET {target} HTTP/1.1".encode("latin-1"), b"Host: a", *fields, b"", b""]
    return environ_of(b"\r\n".join(lines))


def test_all_of_a_post() -> None:
    raw = (
        b"POST /a%20b?c=%20 HTTP/1.1\r\nHost: a:1\r\nContent-Type: t\r\nContent-Length: 2\r\n\r\nhi"
    )
    environ = environ_of(raw)
    assert environ.pop("wsgi.errors") is sys.stderr
    assert environ == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=%20",
        "REQUEST_URI": "/a%20b?c=%20",
        "RAW_URI": "/a%20b?c=%20",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_SOFTWARE": "obworker",
        "REMOTE_ADDR": "10.0.0.1",
        "REMOTE_PORT": "5000",
        "CONTENT_TYPE": "t",
        "CONTENT_LENGTH": "2",
        "HTTP_HOST": "a:1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/%2F", "//"),
        ("/%zz", "/%zz"),
        ("/%E4%B8%AD", "/\xe4\xb8\xad"),
        ("/a+b", "/a+b"),
        ("/%3F?x", "/?"),
        ("http://a", "/"),
        ("http://a/b%20c", "/b c"),
    ],
)
def test_path_is_decoded_to_bytes_as_latin_1(target: str, path: str) -> None:
    assert environ_of_get(target)["PATH_INFO"] == path


def test_a_name_with_an_underscore_is_dropped() -> None:
    """It would pass for the same name with a hyphen, which a proxy may have vouched for."""
    environ = environ_of_get("/", b"X_Real_Ip: evil", b"X-Real-Ip: good", b"Content_Length: 7")
    assert environ["HTTP_X_REAL_IP"] == "good"
    assert "CONTENT_LENGTH" not in environ


def test_repeated_fields_are_joined() -> None:
    environ = environ_of_get("/", b"X: a", b"x: b", b"Cookie: c=1", b"Cookie: d=2")
    assert environ["HTTP_X"] == "a,b"
    assert environ["HTTP_COOKIE"] == "c=1; d=2"


def test_high_bytes_are_latin_1() -> None:
    assert environ_of_get("/", b"X: \xe4\xb8\xad")["HTTP_X"] == "\xe4\xb8\xad"


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    assert environ_of_get("/", b"X: \t a b \t ")["HTTP_X"] == "a b"


def test_a_chunked_body_has_a_length_by_then() -> None:
    environ = environ_of(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    )
    assert environ["CONTENT_LENGTH"] == "2"
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_requests_share_nothing_that_one_could_change() -> None:
    base = base_environ(("127.0.0.1", 1), ("127.0.0.1", 2))
    collector = Collector()
    RequestParser(Limits(), collector).feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    first, second = (make_environ(base, request) for request in collector.requests)
    first["HTTP_X"] = "set by the application"
    assert "HTTP_X" not in second
    assert "HTTP_X" not in base


@pytest.mark.parametrize(
    ("server", "client", "expected"),
    [
        (("::1", 80, 0, 0), ("::2", 5, 0, 0), ("::1", "80", "::2", "5")),
        ("/run/a.sock", "", ("localhost", "80", "", "")),
        (b"\0abstract", "", ("localhost", "80", "", "")),
    ],
)
def test_addresses(server: Any, client: Any, expected: tuple[str, ...]) -> None:
    base = base_environ(server, client)
    names = ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT")
    assert tuple(base[name] for name in names) == expected
