"""Whom the fields of proxies are believed, and what they change."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from wire import TIMEOUT, StartServer, echo

from obworker.http.forwarded import Proxies
from obworker.settings import Settings

DIRECT = {
    "REMOTE_ADDR": "10.0.0.1",
    "REMOTE_PORT": "4000",
    "SERVER_PORT": "8080",
    "wsgi.url_scheme": "http",
    "HTTP_HOST": "model",
}


def proxies(trusted: str) -> Proxies:
    found = Proxies.of(Settings(proxy_headers=True, forwarded_allow_ips=trusted))
    assert found is not None
    return found


def applied(trusted: str = "10.0.0.0/8", **fields: str) -> dict[str, Any]:
    environ: dict[str, Any] = DIRECT | {f"HTTP_X_FORWARDED_{name}": fields[name] for name in fields}
    proxies(trusted).apply(environ)
    return environ


def changed(trusted: str = "10.0.0.0/8", **fields: str) -> dict[str, Any]:
    environ = applied(trusted, **fields)
    return {key: environ[key] for key in DIRECT if environ[key] != DIRECT[key]}


def test_nobody_is_believed_unless_that_is_asked_for() -> None:
    assert Proxies.of(Settings()) is None


@pytest.mark.parametrize(
    ("trusted", "peer", "is_trusted"),
    [
        ("127.0.0.1,::1", "127.0.0.1", True),
        ("127.0.0.1,::1", "::1", True),
        ("127.0.0.1,::1", "127.0.0.2", False),
        ("127.0.0.1,::1", "::ffff:127.0.0.1", True),
        ("::1", "::ffff:127.0.0.1", False),
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "10.0.0.2", False),
        ("::ffff:10.0.0.0/104", "10.255.0.1", True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", False),
        ("::ffff:0:0/96", "203.0.113.9", True),
        ("fd00::/8", "fd12::1", True),
        ("fd00::/8", "fe80::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("0.0.0.0/0", "fd12::1", False),
        ("*", "203.0.113.9", True),
        ("*", "fd12::1", True),
        ("127.0.0.1", "", True),
        ("127.0.0.1", "no address", False),
    ],
)
def test_a_peer_is_trusted_by_its_address(trusted: str, peer: str, is_trusted: bool) -> None:
    assert proxies(trusted).trusts(peer) is is_trusted


@pytest.mark.parametrize(
    ("field", "client"),
    [
        ("203.0.113.9", ("203.0.113.9", "")),
        ("203.0.113.9:5000", ("203.0.113.9", "5000")),
        ("2001:db8::1", ("2001:db8::1", "")),
        ("[2001:db8::1]", ("2001:db8::1", "")),
        ("[2001:db8::1]:5000", ("2001:db8::1", "5000")),
        ("203.0.113.9, 10.0.0.2", ("203.0.113.9", "")),
        ("203.0.113.9,10.0.0.2:80,10.0.0.3", ("203.0.113.9", "")),
        (" 203.0.113.9 ,\t10.0.0.2 ", ("203.0.113.9", "")),
        ("203.0.113.9,, 10.0.0.2,", ("203.0.113.9", "")),
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", "")),
        ("203.0.113.9, ::ffff:10.0.0.2", ("203.0.113.9", "")),
    ],
)
def test_the_last_that_is_no_proxy_is_the_client(field: str, client: tuple[str, str]) -> None:
    environ = applied(FOR=field)
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == client


@pytest.mark.parametrize(
    "field",
    [
        "127.0.0.1, 203.0.113.9",
        "10.0.0.9, 203.0.113.9",
        "198.51.100.1, 203.0.113.9, 10.0.0.2",
        "' OR 1=1, 203.0.113.9",
    ],
)
def test_what_a_client_has_made_up_is_not_looked_at(field: str) -> None:
    assert changed(FOR=field) == {"REMOTE_ADDR": "203.0.113.9", "REMOTE_PORT": ""}


@pytest.mark.parametrize(
    ("field", "client"),
    [
        ("203.0.113.9, unknown, 10.0.0.2", "10.0.0.2"),
        ("203.0.113.9, _hidden", "10.0.0.1"),
        ("unknown", "10.0.0.1"),
        ("", "10.0.0.1"),
        (" , ", "10.0.0.1"),
        ("localhost", "10.0.0.1"),
        ("203.0.113.9:", "10.0.0.1"),
        ("203.0.113.9:0", "10.0.0.1"),
        ("203.0.113.9:65536", "10.0.0.1"),
        ("203.0.113.9:http", "10.0.0.1"),
        ("203.0.113.9:\u00b2", "10.0.0.1"),
        ("203.0.113", "10.0.0.1"),
        ("203.0.113.256", "10.0.0.1"),
        ("203.0.113.9/32", "10.0.0.1"),
        ("3405803785", "10.0.0.1"),
        ("[2001:db8::1", "10.0.0.1"),
        ("[203.0.113.9]x", "10.0.0.1"),
        ("[]:80", "10.0.0.1"),
        ("fe80::1%<script>", "10.0.0.1"),
        ("203.0.113.9\x00", "10.0.0.1"),
    ],
)
def test_nobody_vouches_for_what_stands_before_garbage(field: str, client: str) -> None:
    assert applied(FOR=field)["REMOTE_ADDR"] == client


def test_where_anybody_is_trusted_the_first_is_the_client() -> None:
    assert applied("*", FOR="198.51.100.1, 203.0.113.9")["REMOTE_ADDR"] == "198.51.100.1"


def test_a_row_of_proxies_without_end_is_not_followed() -> None:
    field = ", ".join(["203.0.113.9"] + ["10.0.0.2"] * 1000)
    assert applied(FOR=field)["REMOTE_ADDR"] == "10.0.0.2"


@pytest.mark.parametrize(
    ("field", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("http", "http"),
        ("http, https", "https"),
        ("https,http", "http"),
        ("wss", "http"),
        ("javascript", "http"),
        ("https:", "http"),
        ("", "http"),
    ],
)
def test_the_scheme_is_what_the_nearest_proxy_says(field: str, scheme: str) -> None:
    assert applied(PROTO=field)["wsgi.url_scheme"] == scheme


@pytest.mark.parametrize(
    ("field", "port"),
    [
        ("443", "443"),
        ("80, 443", "443"),
        ("1", "1"),
        ("65535", "65535"),
        ("65536", "8080"),
        ("0", "8080"),
        ("-1", "8080"),
        ("x", "8080"),
        ("\u0663", "8080"),
        ("9" * 5000, "8080"),
        ("", "8080"),
    ],
)
def test_the_port_is_what_the_nearest_proxy_says(field: str, port: str) -> None:
    assert applied(PORT=field)["SERVER_PORT"] == port


def test_without_fields_nothing_changes() -> None:
    assert changed() == {}


def test_the_host_is_that_of_the_request() -> None:
    assert changed(HOST="evil.example") == {}


def test_the_fields_are_left_for_predict_to_see() -> None:
    environ = applied(FOR="203.0.113.9", PROTO="https", HOST="a.example")
    assert environ["HTTP_X_FORWARDED_FOR"] == "203.0.113.9"
    assert environ["HTTP_X_FORWARDED_PROTO"] == "https"
    assert environ["HTTP_X_FORWARDED_HOST"] == "a.example"


def test_who_has_left_is_not_taken_for_a_proxy_on_a_unix_socket(start: StartServer) -> None:
    """The kernel tells no address of a client that reset its connection, but gives what it sent."""
    seen = queue.SimpleQueue[str]()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.put(environ["REMOTE_ADDR"])
        return echo(environ, start_response)

    server = start(app, proxy_headers=True, forwarded_allow_ips="10.0.0.0/8")

    def leave() -> None:
        client = server.connect()
        client.get("/", "X-Forwarded-For: 10.0.0.1")
        client.reset()

    server.call(leave)  # the loop is not there to accept before
    assert seen.get(timeout=TIMEOUT) == "unknown"
