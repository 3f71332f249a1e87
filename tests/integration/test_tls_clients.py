"""TLS as clients see it: openssl s_client, curl and requests against a real obworker."""

from __future__ import annotations

import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from certificates import HOST, Authority, Certificate, openssl
from harness import eventually
from libraries import POOL, Requests
from talking import Talking
from wire import TIMEOUT, Client

JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}
LARGE = bytes(range(256)) * (8 << 12)
REQUEST = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 3\r\nConnection: close\r\n\r\n[1]"
)
# The first record of a handshake, which says that 512 bytes follow (RFC 8446 5.1).
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def serve(directory: Path, certificate: Certificate, *options: str) -> Talking:
    files = ("--certfile", str(certificate.cert), "--keyfile", str(certificate.key))
    return Talking(directory, *files, *options, scheme="https")


@pytest.fixture(scope="module")
def secure(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talking]:
    """Start one server for all tests that need no other."""
    with closing(serve(tmp_path_factory.mktemp("secure"), authority.issue("server"))) as server:
        yield server


@pytest.fixture
def client(secure: Talking, authority: Authority) -> Iterator[Requests]:
    with closing(Requests(secure.url, str(authority.own.cert))) as library:
        yield library


def s_client(server: Talking, authority: Authority, *options: str) -> str:
    """Send a request by openssl s_client, which trusts the authority only."""
    trust = ("-CAfile", str(authority.own.cert), "-verify_return_error", "-verify_hostname", HOST)
    where = ("-connect", f"127.0.0.1:{server.port}", "-servername", HOST)
    named = ("-nameopt", "RFC2253")  # versions differ in how they print names by themselves
    return openssl("s_client", *where, *trust, *named, "-ign_eof", *options, given=REQUEST).decode()


def curl(*argv: str) -> subprocess.CompletedProcess[str]:
    program = ["curl", "--noproxy", "*", "--max-time", "30", "-sS", *argv]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_s_client_is_answered(secure: Talking, authority: Authority, version: str) -> None:
    answer = s_client(secure, authority, f"-{version}", "-quiet")
    assert "HTTP/1.1 200 OK" in answer
    assert "\r\n\r\n[1]" in answer


def test_versions_that_are_broken_are_refused(secure: Talking, authority: Authority) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        s_client(secure, authority, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    assert b"Cipher is (NONE)" in error.value.output


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_a_session_is_resumed_whichever_worker_accepts(
    secure: Talking, authority: Authority, version: str, tmp_path: Path
) -> None:
    session = str(tmp_path / "session")
    assert "New, TLSv" in s_client(secure, authority, f"-{version}", "-sess_out", session)
    for _ in range(10):
        answer = s_client(secure, authority, f"-{version}", "-sess_in", session)
        assert "Reused, TLSv" in answer
        assert "HTTP/1.1 200 OK" in answer


@needs_curl
def test_curl_keeps_its_connection(secure: Talking, authority: Authority) -> None:
    report = ("--write-out", "%{stderr}%{num_connects} %{ssl_verify_result} %{http_version}\n")
    trust = ("--cacert", str(authority.own.cert))
    ended = curl(
        *trust, *report, "-d", "[1]", "-H", "Content-Type: application/json", *[secure.url] * 3
    )
    assert (ended.stdout, ended.stderr) == ("[1]" * 3, "1 0 1.1\n" + "0 0 1.1\n" * 2)


@needs_curl
def test_curl_does_not_believe_who_is_not_vouched_for(secure: Talking) -> None:
    assert curl("--head", secure.url).returncode == 60
    assert curl("--head", "-k", secure.url).stdout.startswith("HTTP/1.1 200 OK")


def test_all_requests_go_over_one_connection(client: Requests) -> None:
    assert client.send("/", b'{"a":1}', JSON).body == b'{"a":1}'
    assert len({client.send("/?case=connection").body for _ in range(50)}) == 1


@pytest.mark.parametrize("body", [LARGE, [LARGE[: 1 << 20]] * 8], ids=["at once", "in chunks"])
def test_a_large_body_passes_both_ways(client: Requests, body: bytes | list[bytes]) -> None:
    reply = client.send("/?case=raw", body, BYTES)
    assert (reply.status, len(reply.body)) == (200, len(LARGE))
    assert reply.body == LARGE


def test_one_that_reads_by_fits_and_starts_gets_each_byte_once(
    secure: Talking, authority: Authority
) -> None:
    size, received = 24 << 20, bytearray()
    context = ssl.create_default_context(cafile=str(authority.own.cert))
    with (
        socket.create_connection(("127.0.0.1", secure.port), TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as client,
    ):
        line = f"POST /?case=large&size={size} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        client.sendall(line.encode())
        while part := client.recv(1 << 20):
            received += part
            if len(received) < 8 << 20:  # the server meets a full socket again and again
                threading.Event().wait(0.002)
    _, _, body = received.partition(b"\r\n\r\n")
    assert body == bytes(range(256)) * (size // 256)


def test_a_stream_arrives_part_by_part(client: Requests, tmp_path: Path) -> None:
    go = tmp_path / "go"
    parts = client.stream(f"/?case=stream&go={go}")
    assert next(parts) == b"first\n"
    go.touch()
    assert b"".join(parts) == b"second\n"


def test_many_at_once_are_all_answered(client: Requests) -> None:
    with ThreadPoolExecutor(POOL) as threads:
        replies = threads.map(
            lambda _: client.send("/?case=raw", LARGE[: 1 << 18], BYTES), range(40)
        )
        assert all(reply.body == LARGE[: 1 << 18] for reply in replies)


def connect(server: Talking) -> Client:
    return Client(socket.create_connection(("127.0.0.1", server.port), TIMEOUT))


@pytest.mark.parametrize("beginning", [b"", HALF_A_HELLO, REQUEST, bytes(100_000)])
def test_who_never_shakes_hands_is_let_go_and_does_no_harm(
    secure: Talking, client: Requests, beginning: bytes
) -> None:
    gone, half_gone = connect(secure), connect(secure)
    gone.send(beginning)
    gone.reset()
    half_gone.send(beginning[:1000])
    half_gone.half_close()
    assert b" 200 OK" not in half_gone.read_to_end()
    half_gone.close()
    assert client.send("/", b"[1]", JSON).body == b"[1]"


def test_one_who_sends_a_large_body_by_plain_http_reads_why_not(secure: Talking) -> None:
    for _ in range(20):
        with closing(connect(secure)) as client:
            client.post("/", LARGE[: 1 << 20])
            assert client.read_reply("POST").status == 400
            assert client.at_end


def test_who_is_not_understood_and_stays_is_let_go_soon(secure: Talking) -> None:
    with closing(connect(secure)) as client:
        client.send(b"SSH-2.0-x\r\n")
        assert client.at_end

        def is_gone() -> bool:
            try:
                client.send(b"x")
            except OSError:
                return True
            return False

        eventually(is_gone, TIMEOUT, "the end of both halves")


def test_who_is_not_understood_any_more_while_it_is_answered_is_let_go_at_once(
    secure: Talking, authority: Authority, client: Requests, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    context = ssl.create_default_context(cafile=str(authority.own.cert))
    with (
        socket.create_connection(("127.0.0.1", secure.port), TIMEOUT) as plain,
        plain.dup() as beside,
        context.wrap_socket(plain, server_hostname=HOST) as garbling,
    ):
        line = f"POST /?case=hold&begun={begun}&go={go} HTTP/1.1\r\nHost: a\r\n\r\n"
        garbling.sendall(line.encode())
        eventually(begun.exists, TIMEOUT, "the call of predict")
        beside.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        beside.settimeout(TIMEOUT)
        while beside.recv(1 << 16):
            pass
    go.touch()
    assert client.send("/", b"[1]", JSON).body == b"[1]"
    assert "a bug in obworker" not in secure.log()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_says_goodbye_with_its_request_is_answered_and_let_go(
    secure: Talking, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context(cafile=str(authority.own.cert))
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with socket.create_connection(("127.0.0.1", secure.port), TIMEOUT) as plain:
        while not tls.version():
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            plain.sendall(outgoing.read())
            if not tls.version():
                incoming.write(plain.recv(1 << 16))
        tls.write(REQUEST.replace(b"Connection: close\r\n", b""))
        with suppress(ssl.SSLWantReadError):
            tls.unwrap()
        plain.sendall(outgoing.read())
        while part := plain.recv(1 << 16):  # it fails where the server keeps the connection
            incoming.write(part)
    assert b" 200 OK" in tls.read(1 << 16)


class Handshake:
    """A client's handshake, which the server has answered and the client not ended."""

    def __init__(self, server: Talking, authority: Authority) -> None:
        context = ssl.create_default_context(cafile=str(authority.own.cert))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)
        self.plain = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.plain.sendall(self._outgoing.read())
        self._incoming.write(self.plain.recv(1 << 16))

    def end_and_ask(self) -> bytes:
        """Return what comes of a request after it."""
        self._tls.do_handshake()
        self._tls.write(REQUEST)
        self.plain.sendall(self._outgoing.read())
        while part := self.plain.recv(1 << 16):
            self._incoming.write(part)
        return self._tls.read(1 << 16)

    def close(self) -> None:
        self.plain.close()


def test_a_handshake_that_has_begun_when_its_worker_is_replaced_goes_on(
    authority: Authority, tmp_path: Path
) -> None:
    with (
        closing(serve(tmp_path, authority.issue("replaced"))) as server,
        closing(Handshake(server, authority)) as handshake,
    ):
        server.signal(signal.SIGHUP)
        server.wait_until_ready(3)
        # longer than one that is idle may stay
        assert not select.select([handshake.plain], [], [], 2.5)[0]
        assert b" 200 OK" in handshake.end_and_ask()


def test_a_handshake_that_has_begun_makes_no_room_for_the_next_client(
    authority: Authority, tmp_path: Path
) -> None:
    with (
        closing(serve(tmp_path, authority.issue("full"), "--max-connections", "1")) as server,
        closing(Handshake(server, authority)) as one,
        closing(Handshake(server, authority)) as other,
        closing(connect(server)),
    ):
        server.wait_for_log("none is idle", within=10)
        assert b" 200 OK" in one.end_and_ask()
        assert b" 200 OK" in other.end_and_ask()


def test_a_handshake_that_stalls_does_not_hold_up_a_stop(
    authority: Authority, tmp_path: Path
) -> None:
    patient = ("--header-timeout", "600", "--graceful-timeout", "60")
    with (
        closing(serve(tmp_path, authority.issue("stop"), *patient)) as server,
        closing(connect(server)) as stalled,
    ):
        stalled.send(HALF_A_HELLO)
        server.signal(signal.SIGTERM)
        assert stalled.at_end


@needs_curl
def test_clients_need_a_certificate_where_that_is_asked_for(
    authority: Authority, tmp_path: Path
) -> None:
    server = authority.issue("server-for-few")
    friend, stranger = authority.issue("friend"), Authority(tmp_path).own
    trust = ("--head", "--cacert", str(authority.own.cert))
    with closing(serve(tmp_path, server, "--ca-certs", str(authority.own.cert))) as few:
        let_in = curl(*trust, "--cert", str(friend.cert), "--key", str(friend.key), few.url)
        assert let_in.stdout.startswith("HTTP/1.1 200 OK"), let_in.stderr
        unknown = curl(*trust, "--cert", str(stranger.cert), "--key", str(stranger.key), few.url)
        for refused in (unknown, curl(*trust, few.url)):
            assert refused.returncode != 0
            assert refused.stdout == ""


def test_who_has_no_certificate_learns_so_however_much_it_sends(
    authority: Authority, tmp_path: Path
) -> None:
    context = ssl.create_default_context(cafile=str(authority.own.cert))
    server = authority.issue("server-that-asks")
    with closing(serve(tmp_path, server, "--ca-certs", str(authority.own.cert))) as few:
        for _ in range(20):
            with (
                socket.create_connection(("127.0.0.1", few.port), TIMEOUT) as plain,
                context.wrap_socket(plain, server_hostname=HOST) as client,
            ):
                client.sendall(LARGE[: 1 << 20])
                with pytest.raises(ssl.SSLError, match="certificate required"):
                    client.recv(1)


def test_a_reload_serves_the_new_certificate_and_no_request_fails(
    authority: Authority, tmp_path: Path
) -> None:
    served, new = authority.issue("served"), authority.issue("new")
    over = threading.Event()
    with (
        closing(serve(tmp_path, served)) as server,
        closing(Requests(server.url, str(authority.own.cert))) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        assert "subject=CN=served" in s_client(server, authority)
        load = threads.submit(client.load, "/?case=connection&sleep=0.005", over)
        try:
            for old, replacing in zip(served, new, strict=True):
                old.write_bytes(replacing.read_bytes())
            server.reload()
        finally:
            over.set()
        assert {reply.status for reply in load.result()} == {200}
        assert "subject=CN=new" in s_client(server, authority)
