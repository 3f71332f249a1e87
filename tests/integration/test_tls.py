"""HTTPS by a real server: clients of all kinds, and certificates that are exchanged."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
from pathlib import Path

import psutil
import pytest
from certificates import HOST, Authority, Certificate, openssl
from harness import Serve, Server

PREDICTOR = """
import os

class Predictor:
    def predict(self, request):
        return {"scheme": request.environ["wsgi.url_scheme"], "slot": os.environ["OBWORKER_SLOT"]}
"""
TIMEOUT = 10.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def used(authority: Authority, tmp_path: Path) -> Certificate:
    """Return the files that the server reads."""
    files = Certificate(tmp_path / "used.crt", tmp_path / "used.key")
    use(authority.issue("first"), files)
    return files


def use(issued: Certificate, files: Certificate) -> None:
    """Put a certificate where the server reads it."""
    files.cert.write_bytes(issued.cert.read_bytes())
    files.key.write_bytes(issued.key.read_bytes())


@pytest.fixture
def server(serve: Serve, model: Path, used: Certificate) -> Server:
    (model / "predictor.py").write_text(PREDICTOR)
    where = ("--certfile", str(used.cert), "--keyfile", str(used.key))
    return serve("--workers", "2", *where, str(model)).wait_until_ready(2)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.own.cert))


def name_of(server: Server, authority: Authority) -> str:
    """Return the name in the certificate that the server shows."""
    with (
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as plain,
        trusting(authority).wrap_socket(plain, server_hostname=HOST) as client,
    ):
        found = client.getpeercert()
        assert found
        return str(dict(pair[0] for pair in found["subject"])["commonName"])  # type: ignore[misc]


def test_requests_are_answered_by_tls(server: Server, authority: Authority) -> None:
    assert f"serving    https://127.0.0.1:{server.port}/" in server.log()
    connection = http.client.HTTPSConnection(
        HOST, server.port, timeout=TIMEOUT, context=trusting(authority)
    )
    for _ in range(3):
        connection.request("POST", "/")
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["scheme"] == "https"
    connection.close()


def test_what_is_answered_by_its_head_reaches_who_is_still_sending(
    server: Server, authority: Authority
) -> None:
    connection = http.client.HTTPSConnection(
        HOST, server.port, timeout=TIMEOUT, context=trusting(authority)
    )
    connection.request("POST", "/none", body=bytes(8 << 20))
    assert connection.getresponse().status == 404
    connection.close()


def test_openssl_is_answered(server: Server, authority: Authority) -> None:
    trust = ("-CAfile", str(authority.own.cert), "-verify_return_error", "-verify_hostname", HOST)
    where = ("-connect", f"127.0.0.1:{server.port}", "-servername", HOST, "-quiet", "-ign_eof")
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert b"HTTP/1.1 200 OK" in openssl("s_client", *where, *trust, given=request)


def test_plain_http_is_told_that_this_is_tls(server: Server) -> None:
    reply = server.request("POST", "/")
    assert (reply.status, json.loads(reply.body)["error"]) == (
        400,
        "this port speaks TLS: use https://",
    )
    server.wait_for_log("cannot read what a client sends: TLS: http request")


def test_a_reload_brings_a_new_certificate(
    server: Server, authority: Authority, used: Certificate
) -> None:
    assert name_of(server, authority) == "first"
    use(authority.issue("second"), used)
    assert name_of(server, authority) == "first"
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloaded +generation 2")
    assert {name_of(server, authority) for _ in range(8)} == {"second"}


def test_a_reload_with_a_broken_certificate_fails_and_the_old_one_is_shown(
    server: Server, authority: Authority, used: Certificate
) -> None:
    used.cert.write_text("no certificate")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload failed: --certfile: .* has no certificate in PEM form")
    assert name_of(server, authority) == "first"


def test_a_connection_that_was_there_before_tls_is_not_said_to_be_encrypted(
    serve: Serve, model: Path, used: Certificate, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    settings = tmp_path / "settings.toml"
    settings.write_text("workers = 2\n")
    server = serve("--config", str(settings), str(model)).wait_until_ready(2)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    connection.request("POST", "/")
    connection.getresponse().read()
    ours = connection.sock
    with settings.open("a") as file:
        file.write(f'certfile = "{used.cert}"\nkeyfile = "{used.key}"\n')
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloaded +generation 2")
    connection.request("POST", "/")
    assert json.loads(connection.getresponse().read())["scheme"] == "http"
    assert connection.sock is ours
    connection.close()


def test_a_worker_that_is_replaced_shows_what_the_others_show(
    server: Server, authority: Authority, used: Certificate
) -> None:
    use(authority.issue("second"), used)
    for worker in server.workers().values():
        worker.kill()
    server.wait_until_ready(4)
    assert {name_of(server, authority) for _ in range(8)} == {"first"}


@pytest.mark.parametrize("preload", ["auto", "off"])
def test_what_replaces_another_needs_no_file(
    preload: str,
    serve: Serve,
    model: Path,
    authority: Authority,
    used: Certificate,
    tmp_path: Path,
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(authority.own.cert.read_bytes())
    where = ("--certfile", str(used.cert), "--keyfile", str(used.key), "--ca-certs", str(trusted))
    server = serve("--workers", "2", "--preload", preload, *where, str(model)).wait_until_ready(2)
    used.cert.write_text("half of what certbot wri")
    used.key.unlink()
    trusted.unlink()
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload failed: --keyfile: cannot read ")
    for process in psutil.Process(server.pid).children():
        if process.cmdline()[0] != "obworker: admin":
            process.kill()
    server.wait_until_ready(4)
    assert {name_of(server, authority) for _ in range(8)} == {"first"}


def test_a_session_is_resumed_with_any_worker(server: Server, authority: Authority) -> None:
    tls, session = trusting(authority), None
    seen: set[bytes] = set()
    for attempt in range(200):
        with (
            socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as plain,
            tls.wrap_socket(plain, server_hostname=HOST, session=session) as client,
        ):
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := client.recv(10_000):
                answer += part
            assert client.session_reused == (attempt > 0)
            session = client.session
        seen.add(answer[-3:-2])
        if attempt > 0 and len(seen) == 2:
            return
    pytest.fail(f"only the worker of slot {seen} has answered")
