"""Who is let in, on a real server: keys, preflights, and what every response says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wire import AT_ONCE, KEY, Blocking, Client, Running, StartServer, echo

ORIGIN = "https://app.example"
BEARER = f"Authorization: Bearer {KEY}"
PREFLIGHT = (
    f"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: {ORIGIN}\r\n"
    "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"
).encode()


def failing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise ValueError


class TestKeys:
    def test_with_one_a_request_is_served(self, start: StartServer, keys: str) -> None:
        client = start(echo, api_key_file=keys).connect()
        for field in (BEARER, f"X-API-Key: {KEY}"):
            client.post("/", b"hello", field)
            assert client.read_reply().body == b"POST / hello"

    def test_without_it_gets_401_and_the_connection_goes_on(
        self, start: StartServer, keys: str
    ) -> None:
        """RFC 9110 11.6.1: a 401 has a challenge."""
        app = Blocking()
        app.release.set()
        client = start(app, api_key_file=keys).connect()
        for field in ("X-A: b", f"Authorization: Basic {KEY}", f"{BEARER}x"):
            client.post("/", b"hello", field)
            reply = client.read_reply()
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.headers["content-type"] == "application/json"
            assert list(json.loads(reply.body)) == ["error"]
        assert app.calls == 0
        client.post("/", b"hello", BEARER)
        assert client.read_reply().status == 200

    def test_who_has_none_does_not_wait_for_those_who_have(
        self, start: StartServer, keys: str
    ) -> None:
        app = Blocking()
        server = start(app, api_key_file=keys)
        served, refused = server.connect(), server.connect()
        served.post("/", b"", BEARER)
        app.wait_until_begun()
        refused.post("/", b"")
        assert refused.read_reply().status == 401
        app.release.set()
        assert served.read_reply().status == 200

    def test_what_is_open_needs_none(self, start: StartServer, keys: str) -> None:
        client = start(echo, api_key_file=keys, open_path=AT_ONCE).connect()
        client.get(AT_ONCE)
        assert client.read_reply().status == 200
        client.get("/")
        assert client.read_reply().status == 401


class TestCors:
    def test_a_preflight_is_answered_though_it_has_no_key_and_every_thread_is_busy(
        self, start: StartServer, keys: str
    ) -> None:
        app = Blocking()
        server = start(app, api_key_file=keys, cors_origin=ORIGIN)
        served, asking = server.connect(), server.connect()
        served.post("/", b"", BEARER)
        app.wait_until_begun()
        asking.send(PREFLIGHT)
        reply = asking.read_reply()
        assert (reply.status, reply.body, app.calls) == (204, b"", 1)
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert reply.headers["access-control-allow-methods"] == "GET, HEAD, POST"
        assert reply.headers["access-control-allow-headers"] == "authorization"
        assert reply.headers["vary"] == "Origin"
        app.release.set()
        assert served.read_reply().status == 200
        asking.post("/", b"", f"Origin: {ORIGIN}", BEARER)
        reply = asking.read_reply()
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-ID" in reply.headers["access-control-expose-headers"]

    def test_without_the_option_it_is_an_ordinary_request(self, start: StartServer) -> None:
        client = start(echo).connect()
        client.send(PREFLIGHT)
        reply = client.read_reply()
        assert reply.body == b"OPTIONS / "
        assert not [name for name in reply.headers if name.startswith("access-control")]

    def test_an_error_can_be_read_by_the_page(self, start: StartServer, keys: str) -> None:
        server = start(failing, api_key_file=keys, cors_origin=ORIGIN, timeout=0.2)
        self.assert_readable(server, 401)
        self.assert_readable(server, 500, BEARER)

    def test_a_timeout_too(self, start: StartServer) -> None:
        app = Blocking()
        self.assert_readable(start(app, cors_origin=ORIGIN, timeout=0.2), 504)
        app.release.set()

    def test_so_can_one_about_a_body_that_was_not_read(self, start: StartServer) -> None:
        server = start(echo, cors_origin=ORIGIN, limit_request_body=10, body_timeout=0.2)
        self.assert_readable(server, 413, size=11)
        self.assert_readable(server, 408, size=10)

    def test_a_star_is_said_also_where_nothing_is_known(self, start: StartServer) -> None:
        client = start(echo, cors_origin="*").connect()
        client.send(b"nothing\r\n\r\n")
        assert client.read_reply().headers["access-control-allow-origin"] == "*"

    @staticmethod
    def assert_readable(server: Running, status: int, *fields: str, size: int = 0) -> None:
        lines = ["POST / HTTP/1.1", "Host: a", f"Origin: {ORIGIN}", f"Content-Length: {size}"]
        client = server.connect()
        client.send("\r\n".join([*lines, *fields, "", ""]).encode())
        reply = client.read_reply()
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == ORIGIN


class TestRequestIds:
    @staticmethod
    def id_of(client: Client, *fields: str) -> str:
        client.post("/", b"", *fields)
        return client.read_reply().headers["x-request-id"]

    def test_the_clients_is_echoed(self, start: StartServer) -> None:
        client = start(echo).connect()
        assert self.id_of(client, "X-Request-ID: abc-1") == "abc-1"
        assert self.id_of(client, "X-Openbayes-Serving-Request-Id: 42") == "42"

    def test_else_one_is_made(self, start: StartServer) -> None:
        client = start(echo).connect()
        assert len({self.id_of(client) for _ in range(3)}) == 3
        assert self.id_of(client, "X-Request-ID: a b") != "a b"

    def test_the_application_sees_it_and_may_say_another(self, start: StartServer) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            headers = [("X-Request-ID", "mine")] if environ["PATH_INFO"] == "/mine" else []
            start_response("200 OK", headers)
            return [environ["HTTP_X_REQUEST_ID"].encode()]

        client = start(app).connect()
        client.get("/")
        reply = client.read_reply()
        assert reply.body.decode() == reply.headers["x-request-id"] != ""
        client.get("/mine")
        assert client.read_reply().headers["x-request-id"] == "mine"

    def test_errors_of_the_server_have_it(self, start: StartServer, keys: str) -> None:
        assert self.id_of(start(failing).connect(), "X-Request-ID: r-1") == "r-1"
        client = start(echo, api_key_file=keys).connect()
        assert self.id_of(client, "X-Request-ID: r-2") == "r-2"
        app = Blocking()
        client = start(app, timeout=0.2).connect()
        assert self.id_of(client, "X-Request-ID: r-3") == "r-3"
        app.release.set()

    def test_a_trace_is_passed_through(self, start: StartServer, tmp_path: Path) -> None:
        """W3C Trace Context 4.2: obworker takes part in no trace, and changes none."""
        sent = f"00-{'a' * 32}-{'b' * 16}-01"

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            return [environ.get("HTTP_TRACEPARENT", "none").encode()]

        client = start(app).connect()
        client.get("/", f"traceparent: {sent}")
        assert client.read_reply().body.decode() == sent
        client.get("/")
        assert client.read_reply().body == b"none"
