"""Addresses, and listening sockets that nobody shares by mistake."""

from __future__ import annotations

import os
import re
import resource
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from obworker.errors import ListenError
from obworker.supervisor.listeners import (
    Address,
    Inherited,
    bind,
    claim,
    inherited,
)


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


# sockets that systemd lends

Pass = Callable[..., Inherited]


@pytest.fixture
def passed() -> Iterator[Pass]:
    """Pass sockets by descriptors in a row, as systemd does, and inherit them."""
    first = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 10
    kept: list[socket.socket] = []
    descriptors: list[int] = []

    def inherit(*sockets: socket.socket, **variables: str) -> Inherited:
        kept.extend(sockets)
        for number, given in enumerate(sockets, first):
            descriptors.append(os.dup2(given.fileno(), number, inheritable=True))
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets))}
        return inherited(environ | variables, first)

    yield inherit
    for given in kept:
        given.close()
    for descriptor in descriptors:
        with suppress(OSError):  # whoever inherited it may have closed it
            os.close(descriptor)


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_without_systemd_nothing_is_inherited() -> None:
    assert inherited({}) == Inherited(None, None)


def test_sockets_for_another_process_are_left_alone(passed: Pass) -> None:
    assert passed(listening(), LISTEN_PID="1") == Inherited(None, None)


def test_a_socket_is_served_on_whatever_its_name(passed: Pass) -> None:
    given = listening()
    main, admin = passed(given, LISTEN_FDNAMES="obworker.socket")
    assert main
    assert Address.of(main) == Address("127.0.0.1", given.getsockname()[1])
    assert admin is None
    assert not main.get_inheritable()
    main.close()


@pytest.mark.parametrize(("names", "first"), [("admin:main", "admin"), ("x:admin", "main")])
def test_one_named_admin_is_for_the_admin_process(passed: Pass, names: str, first: str) -> None:
    one, other = listening(), listening()
    found = passed(one, other, LISTEN_FDNAMES=names)
    assert found.main
    assert found.admin
    by_role = {"main": found.main, "admin": found.admin}
    assert by_role[first].getsockname() == one.getsockname()
    found.main.close()
    found.admin.close()


def test_a_unix_socket_may_be_lent(passed: Pass, tmp_path: Path) -> None:
    given, address = bind(Address(path=str(tmp_path / "socket")))
    given.listen()
    main = passed(given).main
    assert main
    assert Address.of(main) == address
    main.close()


def test_an_abstract_unix_socket_has_an_address(passed: Pass) -> None:
    given = socket.socket(socket.AF_UNIX)
    given.bind("")
    given.listen()
    main = passed(given).main
    assert main
    assert Address.of(main).path == "@" + given.getsockname()[1:].decode()
    main.close()


def not_listening() -> socket.socket:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@pytest.mark.parametrize("make", [not_listening, datagrams])
def test_what_does_not_listen_is_refused(passed: Pass, make: Callable[[], socket.socket]) -> None:
    with pytest.raises(ListenError, match="not a listening socket") as error:
        passed(make(), LISTEN_FDNAMES="main")
    assert error.value.hint == "the .socket unit needs ListenStream= and Accept=no"


def test_two_to_serve_on_are_refused(passed: Pass) -> None:
    with pytest.raises(ListenError, match="several main sockets; one can be served"):
        passed(listening(), listening(), LISTEN_FDNAMES="a:b")


@pytest.mark.parametrize("count", ["", "many", "-1"])
def test_a_count_that_is_none_is_refused(passed: Pass, count: str) -> None:
    with pytest.raises(ListenError, match=f"LISTEN_FDS: '{count}' is not a number"):
        passed(LISTEN_FDS=count)


def test_a_descriptor_that_is_not_there_is_refused(passed: Pass) -> None:
    with pytest.raises(ListenError, match="Bad file descriptor"):
        passed(LISTEN_FDS="1", LISTEN_FDNAMES="main")
