"""Addresses, and listening sockets that nobody shares by mistake."""

from __future__ import annotations

import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from obworker.errors import ListenError
from obworker.supervisor import listeners
from obworker.supervisor.listeners import Address, bind, claim, refuse_new_connections


@pytest.mark.parametrize(
    ("text", "address", "written", "url"),
    [
        ("0.0.0.0:80", Address("0.0.0.0", 80), "0.0.0.0:80", "http://localhost:80/"),
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), "127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("example:1", Address("example", 1), "example:1", "http://example:1/"),
        ("[::]:80", Address("::", 80), "[::]:80", "http://localhost:80/"),
        ("[::1]:80", Address("::1", 80), "[::1]:80", "http://[::1]:80/"),
        ("unix:/run/a.sock", Address(path="/run/a.sock"), "unix:/run/a.sock", "http://localhost/"),
        ("unix:a:b", Address(path="a:b"), "unix:a:b", "http://localhost/"),
    ],
)
def test_an_address_is_parsed_and_written(
    text: str, address: Address, written: str, url: str
) -> None:
    assert Address.parse(text) == address
    assert (str(address), address.url) == (written, url)


@pytest.mark.parametrize(
    ("body_kind", "command"),
    [
        ("json", "curl -H 'Content-Type: application/json' -d '{}' http://127.0.0.1:80/"),
        ("data", "curl --data-binary @FILE http://127.0.0.1:80/"),
        ("none", "curl -X POST http://127.0.0.1:80/"),
    ],
)
def test_a_request_to_try_fits_the_predictor(body_kind: str, command: str) -> None:
    assert Address("127.0.0.1", 80).curl(body_kind) == command


def test_a_request_to_try_goes_through_the_socket() -> None:
    command = Address(path="/run/a").curl("none")
    assert command == "curl --unix-socket /run/a -X POST http://localhost/"


@pytest.fixture
def bound() -> Iterator[tuple[socket.socket, Address]]:
    """Return a listener on a free port, and its address."""
    listener, address = bind(Address("127.0.0.1", 0))
    yield listener, address
    listener.close()


Bound = tuple[socket.socket, Address]


def test_port_0_becomes_a_real_one(bound: Bound) -> None:
    listener, address = bound
    assert address == Address("127.0.0.1", listener.getsockname()[1])
    assert address.port > 0


def test_clients_are_refused_until_somebody_listens(bound: Bound) -> None:
    listener, address = bound
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port), timeout=5)
    listener.listen()
    socket.create_connection((address.host, address.port), timeout=5).close()


@pytest.mark.parametrize("listening", [False, True])
def test_a_port_that_is_taken_is_refused(bound: Bound, listening: bool) -> None:
    listener, address = bound
    if listening:
        claim(listener, alone=False)
        listener.listen()
    with pytest.raises(ListenError, match=re.escape(f"{address}: Address already in use")) as error:
        bind(address)
    assert error.value.hint == "another program serves there: stop it, or use --port"
    assert error.value.exit_code == 2


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(ListenError, match=f"cannot listen on {re.escape(host)}:0: "):
        bind(Address(host, 0))


def test_ipv6_is_bound_where_there_is_any() -> None:
    try:
        listener, address = bind(Address("::1", 0))
    except ListenError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert address.url == f"http://[::1]:{address.port}/"
    listener.close()


def test_a_listener_is_not_inherited_by_programs(bound: Bound) -> None:
    assert not bound[0].get_inheritable()


# unix sockets


def test_a_socket_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener, address = bind(Address(path=str(path)))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert address == Address(path=str(path))
    listener.close()


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    bind(Address(path=str(path)))[0].close()
    listener, _ = bind(Address(path=str(path)))
    listener.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


@pytest.mark.parametrize("listening", [False, True])
def test_a_socket_file_in_use_is_left_alone(tmp_path: Path, listening: bool) -> None:
    path = tmp_path / "socket"
    listener, address = bind(Address(path=str(path)))
    if listening:
        listener.listen()
    inode = path.stat().st_ino
    with pytest.raises(ListenError, match="Address already in use"):
        bind(address)
    assert path.stat().st_ino == inode
    listener.close()


def test_a_file_is_never_replaced_by_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(ListenError, match="is a file, not a socket"):
        bind(Address(path=str(path)))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/socket", "x" * 200])
def test_a_path_that_cannot_be_bound_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ListenError, match="cannot listen on unix:"):
        bind(Address(path=str(tmp_path / name)))


# the end of a listener


def test_no_connection_begins_after_the_refusal_and_none_that_began_is_lost(bound: Bound) -> None:
    listener, address = bound
    listener.listen()
    waiting = socket.create_connection((address.host, address.port), timeout=5)
    refuse_new_connections(listener)
    with pytest.raises(TimeoutError):
        socket.create_connection((address.host, address.port), timeout=0.2)
    accepted, _ = listener.accept()
    waiting.sendall(b"hello")
    assert accepted.recv(10) == b"hello"
    accepted.close()
    waiting.close()


def test_the_refusal_removes_a_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener, _ = bind(Address(path=str(path)))
    refuse_new_connections(listener)
    assert not path.exists()
    refuse_new_connections(listener)
    listener.close()


def test_the_filter_drops_what_has_the_syn_bit() -> None:
    load, jump, drop, accept = listeners.DROP_SYN
    assert (load[3], jump[3]) == (13, 0x02)
    assert (drop[3], accept[3]) == (0, 0xFFFFFFFF)
