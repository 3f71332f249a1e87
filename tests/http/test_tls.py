"""TLS: which files make a context, and a socket that behaves as a plain one does."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from certificates import HOST, Authority, Certificate, openssl

from obworker.errors import UsageError
from obworker.http.pem import Pem
from obworker.http.tls import RECORD_SIZE, TlsSocket, context

TIMEOUT = 10.0
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
PART = 1 << 16


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Certificate:
    return authority.issue("server")


# the files


def made(certificate: Certificate, ca_certs: Path | None = None) -> ssl.SSLContext:
    authorities = str(ca_certs) if ca_certs else None
    return from_files(str(certificate.cert), str(certificate.key), authorities)


def from_files(certfile: str, keyfile: str | None, ca_certs: str | None) -> ssl.SSLContext:
    certificate = Pem.read("--certfile", certfile)
    key = Pem.read("--keyfile", keyfile) if keyfile else certificate
    return context(certificate, key, Pem.read("--ca-certs", ca_certs) if ca_certs else None)


def test_certificate_and_key_may_share_a_file(server: Certificate, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(server.cert.read_bytes() + server.key.read_bytes())
    from_files(str(both), None, None)


class Files(NamedTuple):
    """What is wrong, and the files in which it is."""

    error: str
    certfile: str
    keyfile: str | None
    ca_certs: str | None = None


Break = Callable[[Certificate, Path], Files]


def missing_certificate(server: Certificate, path: Path) -> Files:
    return Files(f"--certfile: cannot read {path}: No such file", str(path), str(server.key))


def missing_key(server: Certificate, path: Path) -> Files:
    return Files(f"--keyfile: cannot read {path}: No such file", str(server.cert), str(path))


def missing_authorities(server: Certificate, path: Path) -> Files:
    return Files(f"--ca-certs: cannot read {path}: ", str(server.cert), str(server.key), str(path))


def a_directory(server: Certificate, path: Path) -> Files:
    path.mkdir()
    return Files(f"--certfile: cannot read {path}: Is a directory", str(path), str(server.key))


def no_certificate(server: Certificate, path: Path) -> Files:
    path.write_bytes(os.urandom(100))
    return Files(f"--certfile: {path}: has no certificate in PEM", str(path), str(server.key))


def no_key(server: Certificate, _: Path) -> Files:
    return Files(f"--certfile: {server.cert}: has no private key", str(server.cert), None, None)


def no_authorities(server: Certificate, path: Path) -> Files:
    path.write_text("")
    return Files(f"--ca-certs: {path}: has no cert", str(server.cert), str(server.key), str(path))


def damaged_certificate(server: Certificate, path: Path) -> Files:
    path.write_text(server.cert.read_text().replace("M", "?"))
    return Files(f"--certfile: {path}: OpenSSL cannot use it: ", str(path), str(server.key))


def damaged_authority(server: Certificate, path: Path) -> Files:
    path.write_text(server.cert.read_text().replace("M", "?"))
    error = f"--ca-certs: {path}: OpenSSL cannot use it: "
    return Files(error, str(server.cert), str(server.key), str(path))


def foreign_key(server: Certificate, path: Path) -> Files:
    path.write_bytes(openssl("genpkey", "-algorithm", "ED25519"))
    error = f"--keyfile: {path}: the key is not that of the certificate"
    return Files(error, str(server.cert), str(path))


def another_key(server: Certificate, path: Path) -> Files:
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    openssl("genpkey", *curve, "-out", str(path))
    error = f"--keyfile: {path}: the key is not that of the certificate"
    return Files(error, str(server.cert), str(path))


def encrypted_key(server: Certificate, path: Path) -> Files:
    secret = ("-aes256", "-passout", "pass:secret")
    openssl("pkey", "-in", str(server.key), *secret, "-out", str(path))
    error = f"--keyfile: {path}: the key is encrypted"
    return Files(error, str(server.cert), str(path))


def damaged_key(server: Certificate, path: Path) -> Files:
    path.write_text(server.key.read_text().replace("M", "?"))
    error = f"--certfile: {server.cert}: OpenSSL cannot use it: "
    return Files(error, str(server.cert), str(path))


@pytest.mark.parametrize(
    "broken",
    [
        missing_certificate,
        missing_key,
        missing_authorities,
        a_directory,
        no_certificate,
        no_key,
        no_authorities,
        damaged_certificate,
        damaged_authority,
        foreign_key,
        another_key,
        encrypted_key,
        damaged_key,
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_line(
    broken: Break, server: Certificate, tmp_path: Path
) -> None:
    files = broken(server, tmp_path / "file")
    with pytest.raises(UsageError) as error:
        from_files(files.certfile, files.keyfile, files.ca_certs)
    assert str(error.value).startswith(files.error)
    assert "\n" not in str(error.value)


# the socket


class Ends:
    """Both ends of a connection; the client's is plain until it was joined."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.plain, accepted = socket.socketpair()
        accepted.setblocking(False)
        self.plain.settimeout(TIMEOUT)
        self.server = TlsSocket(tls, accepted)
        self._client: ssl.SSLSocket | None = None

    @property
    def client(self) -> ssl.SSLSocket:
        """The client's end after the handshake."""
        assert self._client is not None
        return self._client

    def join(self, tls: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Ends:
        """Shake hands: the client on a thread, the server by the rules of an event loop."""

        def shake() -> None:
            with suppress(OSError):
                self._client = tls.wrap_socket(
                    self.plain,
                    server_hostname=HOST,
                    session=session,
                    suppress_ragged_eofs=False,
                )
                self._client.sendall(b"!")

        thread = threading.Thread(target=shake)
        thread.start()
        try:
            assert receive(self.server, 1) == b"!"
        finally:
            thread.join(TIMEOUT)
        return self

    def close(self) -> None:
        for end in (self.server, self.plain, self._client):
            if end is not None:
                end.close()


Connect = Callable[[ssl.SSLContext], Ends]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make connections to a server, and close them after the test."""
    with ExitStack() as opened:
        yield lambda tls: opened.enter_context(closing(Ends(tls)))


def trusting(authority: Authority) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=str(authority.own.cert))
    tls.set_alpn_protocols(["h2", "http/1.1"])
    return tls


def receive(server: TlsSocket, size: int) -> bytes:
    """Read so many bytes, or to the end; when it is readable, as an event loop does."""
    received = b""
    while len(received) < size:
        readable, _, _ = select.select([server], [], [], TIMEOUT)
        assert readable, f"nothing came after {len(received)} bytes"
        with suppress(BlockingIOError):
            part = server.recv(PART)
            if not part:
                break
            received += part
    return received


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_both_sides_hear_each_other(
    version: ssl.TLSVersion, authority: Authority, server: Certificate, connect: Connect
) -> None:
    tls = trusting(authority)
    tls.minimum_version = tls.maximum_version = version
    ends = connect(made(server)).join(tls)
    ours, client = ends.server, ends.client
    client.sendall(b"hello")
    assert receive(ours, 5) == b"hello"
    assert ours.send(b"welcome") == 7
    assert client.recv(100) == b"welcome"
    assert client.selected_alpn_protocol() == "http/1.1"


def test_nothing_stays_where_an_event_loop_does_not_see_it(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server)).join(trusting(authority))
    ours, client = ends.server, ends.client
    client.sendall(b"x" * 40_000)  # three records
    client.sendall(b"y")
    select.select([ours], [], [], TIMEOUT)
    assert ours.recv(1 << 20) == b"x" * 40_000 + b"y"
    assert select.select([ours], [], [], 0)[0] == []


def test_records_that_come_byte_by_byte_are_put_together(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server))
    ours, theirs = ends.server, ends.plain
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(authority).wrap_bio(incoming, outgoing, server_hostname=HOST)
    received = b""

    def trickle() -> bytes:
        found = b""
        for byte in outgoing.read():
            theirs.sendall(bytes([byte]))
            with suppress(BlockingIOError):
                found += ours.recv(PART)
        return found

    for _ in range(3):
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
            break
        received += trickle()
        incoming.write(theirs.recv(PART))
    client.write(b"hello")
    assert received + trickle() == b"hello"


def test_a_slow_reader_gets_every_byte_once(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server)).join(trusting(authority))
    ours, client = ends.server, ends.client
    body = os.urandom(3 << 20)
    sent, steps, received = 0, [], bytearray()
    while sent < len(body):
        with suppress(BlockingIOError):
            steps.append(ours.send(memoryview(body)[sent:]))
            sent = sum(steps)
        received += client.recv(PART)
    while len(received) < len(body):
        received += client.recv(PART)
    assert received == body
    assert len(steps) > 1


def test_what_is_said_to_have_left_has_left(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server)).join(trusting(authority))
    ours, client = ends.server, ends.client
    sent = ours.send(bytes(8 << 20))
    assert 0 < sent < 8 << 20
    received = 0
    while received < sent:
        received += len(client.recv(PART))
    assert received >= sent


def test_what_has_left_of_a_part_that_is_to_be_given_again_is_known(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server))
    with ends.plain.dup() as beside:
        ours = ends.join(trusting(authority)).server
        sent = ours.send(bytes(8 << 20))
        beside.setblocking(False)
        left = 0
        with suppress(BlockingIOError):
            while True:
                left += len(beside.recv(PART))
    assert ours.ahead > 0
    assert 0 <= left - (sent + ours.ahead) < left // 100  # what TLS adds


def test_the_end_of_the_clients_encrypted_half_is_its_end(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server)).join(trusting(authority))
    ends.client.settimeout(0)
    with pytest.raises(ssl.SSLWantReadError):  # our end is still to come
        ends.client.unwrap()
    select.select([ends.server], [], [], TIMEOUT)
    assert (ends.server.recv(PART), ends.server.recv(PART)) == (b"", b"")


@pytest.mark.parametrize("says_so", [False, True])
def test_what_comes_with_the_end_is_not_lost(
    says_so: bool, authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server)).join(trusting(authority))
    ends.client.sendall(b"last")
    if says_so:
        ends.client.settimeout(0)
        with pytest.raises(ssl.SSLWantReadError):
            ends.client.unwrap()
    if not says_so:
        ends.client.shutdown(socket.SHUT_WR)
    assert receive(ends.server, 4) == b"last"
    assert ends.server.has_ended is says_so
    assert ends.server.recv(PART) == b""


def test_our_half_ends_and_the_clients_goes_on(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server)).join(trusting(authority))
    ours, client = ends.server, ends.client
    ours.send(b"last")
    ours.shutdown(socket.SHUT_WR)
    assert (client.recv(100), client.recv(100)) == (b"last", b"")
    client.close()
    assert receive(ours, 1) == b""


def test_our_half_ends_with_a_goodbye_also_where_there_is_no_room_for_one(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server))
    with ends.plain.dup() as plain:
        ours = ends.join(trusting(authority)).server
        ends.client.settimeout(0)
        with suppress(ssl.SSLWantReadError):
            ends.client.recv(1)  # the tickets
        with socket.socket(fileno=os.dup(ours.fileno())) as beside:
            junk = fill(beside)
        with pytest.raises(BlockingIOError):
            ours.shutdown(socket.SHUT_WR)
        while junk:
            junk -= len(plain.recv(min(junk, PART)))
    ours.shutdown(socket.SHUT_WR)
    ends.client.settimeout(TIMEOUT)
    assert ends.client.recv(100) == b""


def test_a_close_is_an_end_in_good_order(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server)).join(trusting(authority))
    ends.server.send(b"last")
    ends.server.close()
    assert (ends.client.recv(100), ends.client.recv(100)) == (b"last", b"")


def test_a_close_ends_the_connection_also_where_a_forked_process_has_it(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server)).join(trusting(authority))
    copy = os.dup(ends.server.fileno())
    try:
        ends.server.close()
        assert ends.client.recv(100) == b""
        with socket.socket(fileno=os.dup(ends.client.fileno())) as below:
            below.settimeout(TIMEOUT)
            assert below.recv(100) == b""
    finally:
        os.close(copy)


def test_a_reset_is_not(authority: Authority, server: Certificate, connect: Connect) -> None:
    ends = connect(made(server)).join(trusting(authority))
    ends.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.server.send(b"cut off")
    ends.server.close()
    assert ends.client.recv(100) == b"cut off"
    with pytest.raises(OSError, match=r"EOF|reset|Broken pipe"):
        ends.client.recv(100)


def test_a_session_is_resumed_by_whoever_shares_the_context(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    shared, tls = made(server), trusting(authority)
    first = connect(shared).join(tls)
    first.server.send(b"x")
    assert first.client.recv(1) == b"x"  # TLS 1.3 sends tickets after the handshake
    session = first.client.session
    assert connect(shared).join(tls, session).client.session_reused
    assert not connect(made(server)).join(tls, session).client.session_reused


def fill(full: socket.socket) -> int:
    """Send until nothing more can be; return how many bytes that were."""
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += full.send(b"x" * 100)
    return sent


def test_a_handshake_waits_for_a_socket_that_is_full(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server))
    ours, theirs = ends.server, ends.plain
    with socket.socket(fileno=os.dup(ours.fileno())) as beside:
        junk = fill(beside)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(authority).wrap_bio(incoming, outgoing, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    theirs.sendall(outgoing.read())
    with pytest.raises(BlockingIOError):
        ours.recv(PART)
    wanted = ours.wants_write
    with pytest.raises(BlockingIOError):
        ours.send(b"")
    while junk:
        junk -= len(theirs.recv(min(junk, PART)))
    assert ours.send(b"") == 0
    assert (wanted, ours.wants_write) == (True, False)
    incoming.write(theirs.recv(PART))
    client.do_handshake()


class Chatty:
    """An OpenSSL that answers all that comes, as the real one does a request to renegotiate."""

    most = 0

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **_: object) -> Chatty:
        self.incoming, self.outgoing = incoming, outgoing
        return self

    def read(self, _size: int) -> bytes:
        self.most = max(self.most, self.incoming.pending)
        self.outgoing.write(self.incoming.read())
        raise ssl.SSLWantReadError

    def write(self, part: memoryview) -> int:
        self.outgoing.write(part)
        self.most = max(self.most, self.outgoing.pending)
        return len(part)

    def unwrap(self) -> None:
        raise ssl.SSLWantReadError


def test_who_does_not_read_what_it_asks_for_is_let_go(connect: Connect) -> None:
    ends = connect(cast("ssl.SSLContext", Chatty()))

    def ask_and_ask() -> None:
        for _ in range(64):
            ends.plain.sendall(bytes(PART))
            with suppress(BlockingIOError):
                ends.server.recv(PART)

    with pytest.raises(ConnectionError, match=r"^TLS: the client does not read"):
        ask_and_ask()


def test_openssl_gets_a_little_at_a_time_for_it_keeps_the_memory(connect: Connect) -> None:
    chatty = Chatty()
    ends = connect(cast("ssl.SSLContext", chatty))
    ends.plain.sendall(bytes(PART))
    with pytest.raises(BlockingIOError):
        ends.server.recv(PART)
    assert ends.plain.recv(PART, socket.MSG_WAITALL) == bytes(PART)
    assert ends.server.send(bytes(PART)) == PART
    assert chatty.most == RECORD_SIZE


# who is not let in


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"OPTIONS * HTTP/1.1", b"PATCH / HTTP/1.1"])
def test_one_who_speaks_plain_http_is_told(
    line: bytes, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server))
    ours, client = ends.server, ends.plain
    client.sendall(line + b"\r\nHost: a\r\n\r\n")
    with pytest.raises(ConnectionError, match=r"^TLS: (http request|wrong version number)$"):
        ours.recv(PART)
    answer = client.recv(PART)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b'{"error":"this port speaks TLS: use https://"}')
    client.sendall(b"\x16\x03\x01 what follows is dropped")
    with pytest.raises(BlockingIOError):
        ours.recv(PART)
    ours.shutdown(socket.SHUT_WR)
    assert client.recv(PART) == b""
    client.shutdown(socket.SHUT_WR)
    assert ours.recv(PART) == b""


@pytest.mark.parametrize("garbage", [b"\0" * 100, os.urandom(5) + b"x" * 100, b"SSH-2.0-x\r\n"])
def test_garbage_ends_the_connection(garbage: bytes, server: Certificate, connect: Connect) -> None:
    ends = connect(made(server))
    ours, client = ends.server, ends.plain
    client.sendall(garbage)
    with pytest.raises(ConnectionError, match=r"^TLS: \w"):
        ours.recv(PART)


def test_a_record_that_was_tampered_with_ends_the_connection(
    authority: Authority, server: Certificate, connect: Connect
) -> None:
    ends = connect(made(server))
    with ends.plain.dup() as beside:
        ends.join(trusting(authority))
        beside.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ConnectionError, match=r"^TLS: "):
        receive(ends.server, 1)


def test_nothing_is_sent_before_the_handshake(server: Certificate, connect: Connect) -> None:
    ends = connect(made(server))
    ours, client = ends.server, ends.plain
    with pytest.raises(BlockingIOError):
        ours.send(b"secret")
    ours.close()
    assert client.recv(100) == b""


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_client_has_a_certificate_where_one_is_asked_for(
    version: ssl.TLSVersion,
    authority: Authority,
    server: Certificate,
    connect: Connect,
    tmp_path: Path,
) -> None:
    tls = made(server, authority.own.cert)
    with_certificate, without, foreign = (trusting(authority) for _ in range(3))
    for client in (with_certificate, without, foreign):
        client.maximum_version = version
    known, unknown = authority.issue("client"), Authority(tmp_path).issue("client")
    with_certificate.load_cert_chain(known.cert, known.key)
    foreign.load_cert_chain(unknown.cert, unknown.key)
    connect(tls).join(with_certificate)
    with pytest.raises(ConnectionError, match="peer did not return a certificate"):
        connect(tls).join(without)
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        connect(tls).join(foreign)


# openssl s_client


@pytest.fixture
def echo(server: Certificate) -> Iterator[tuple[int, list[str]]]:
    """Echo what one client sends; return the port, and what goes wrong."""
    wrong: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            ours = TlsSocket(made(server), accepted)
            try:
                while received := receive(ours, 1):
                    ours.send(received)
                ours.shutdown(socket.SHUT_WR)
            except OSError as error:
                wrong.append(str(error))
            ours.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], wrong
        thread.join(TIMEOUT)


def s_client(port: int, *options: str) -> list[str]:
    return ["s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST, *options]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_is_served(version: str, echo: tuple[int, list[str]], authority: Authority) -> None:
    trust = ("-CAfile", str(authority.own.cert), "-verify_return_error", "-verify_hostname", HOST)
    said = openssl(*s_client(echo[0], version, *trust, "-alpn", "http/1.1"), given=b"hello\n")
    assert b"Verification: OK" in said
    assert b"ALPN protocol: http/1.1" in said
    assert echo[1] == []


def test_tls_1_1_is_refused(echo: tuple[int, list[str]]) -> None:
    old = s_client(echo[0], "-tls1_1", "-cipher", "ALL@SECLEVEL=0")
    with suppress(subprocess.CalledProcessError):
        openssl(*old)
    assert echo[1] == ["TLS: unsupported protocol"]
