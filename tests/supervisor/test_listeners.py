"""Addresses, and listening sockets that nobody shares by mistake."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from obworker.errors import ListenError
from obworker.supervisor.listeners import (
    Address,
    Listeners,
    bind,
    bind_all,
    claim,
    close,
    free_port,
    is_served,
)


@pytest.mark.parametrize(
    ("text", "address", "written", "url"),
    [
        ("0.0.0.0:80", Address("0.0.0.0", 80), "0.0.0.0:80", "http://localhost:80/"),
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), "127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("example:1", Address("example", 1), "example:1", "http://example:1/"),
        ("[::]:80", Address("::", 80), "[::]:80", "http://localhost:80/"),
        ("[::1]:80", Address("::1", 80), "[::1]:80", "http://[::1]:80/"),
        (
            "[fe80::1%lo]:80",
            Address("fe80::1%lo", 80),
            "[fe80::1%lo]:80",
            "http://[fe80::1%25lo]:80/",
        ),
        ("unix:/run/a.sock", Address(path="/run/a.sock"), "unix:/run/a.sock", "http://localhost/"),
        ("unix:/a:b", Address(path="/a:b"), "unix:/a:b", "http://localhost/"),
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


def accepts(family: socket.AddressFamily, host: str, port: int) -> bool:
    """Whether somebody listens there; nothing else of the machine's is asked."""
    with socket.socket(family) as client:
        client.settimeout(5)
        return client.connect_ex((host, port)) == 0


def needs_ipv6() -> None:
    try:
        bind(Address("::1", 0))[0].close()
    except ListenError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_an_ipv6_wildcard_takes_ipv4_too() -> None:
    needs_ipv6()
    listener, address = bind(Address("::", 0))
    with listener:
        listener.listen()
        assert accepts(socket.AF_INET, "127.0.0.1", address.port)
        assert accepts(socket.AF_INET6, "::1", address.port)


@pytest.mark.parametrize("hosts", [("0.0.0.0", "::"), ("::", "0.0.0.0"), ("127.0.0.1", "::")])
def test_an_ipv6_wildcard_leaves_ipv4_to_an_address_of_its_own(hosts: tuple[str, str]) -> None:
    needs_ipv6()
    port = free_port()
    opened = bind_all([Address(host, port) for host in hosts])
    six = opened.sockets[hosts.index("::")]
    six.listen()
    assert accepts(socket.AF_INET6, "::1", port)
    assert not accepts(socket.AF_INET, "127.0.0.1", port)
    opened.close()


def test_a_zone_is_part_of_the_address() -> None:
    needs_ipv6()
    local = next((line for line in ipv6_addresses() if line[0].startswith("fe80")), None)
    if local is None:
        pytest.skip("no link-local address here")
    host, interface = local
    listener, address = bind(Address(f"{host}%{interface}", 0))
    with listener:
        assert address.url == f"http://[{host}%25{interface}]:{address.port}/"
        assert Address.of(listener) == address


def ipv6_addresses() -> list[tuple[str, str]]:
    """Return every IPv6 address of this machine, and its interface."""
    lines = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    return [(str(ipaddress.IPv6Address(bytes.fromhex(line[0]))), line[5]) for line in lines]


# several


def test_all_addresses_are_bound(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    opened = bind_all([Address("127.0.0.1", 0), Address("127.0.0.1", 0), Address(path=str(path))])
    ports = [one.port for one in opened.addresses[:2]]
    assert str(opened) == f"127.0.0.1:{ports[0]},127.0.0.1:{ports[1]},unix:{path}"
    assert [Address.of(listener) for listener in opened.sockets] == list(opened.addresses)
    assert not opened.lent
    opened.close()


def test_where_one_address_cannot_be_had_none_is_kept(bound: Bound, tmp_path: Path) -> None:
    path, port = tmp_path / "socket", free_port()
    with pytest.raises(ListenError, match="Address already in use"):
        bind_all([Address("127.0.0.1", port), Address(path=str(path)), bound[1]])
    assert not path.exists()
    bind(Address("127.0.0.1", port))[0].close()


def test_nobody_is_let_in_anywhere_any_more(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    opened = bind_all([Address("127.0.0.1", 0), Address("127.0.0.1", 0), Address(path=str(path))])
    for listener in opened.sockets:
        claim(listener, alone=False)
        listener.listen()
    ports = [one.port for one in opened.addresses[:2]]
    assert [accepts(socket.AF_INET, "127.0.0.1", port) for port in ports] == [True, True]
    opened.refuse_new_connections()
    assert [accepts(socket.AF_INET, "127.0.0.1", port) for port in ports] == [False, False]
    assert not path.exists()
    opened.close()


def test_a_lent_socket_is_only_left(bound: Bound, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    file, _ = bind(Address(path=str(path)))
    claim(bound[0], alone=False)
    bound[0].listen()
    Listeners.of_lent([bound[0], file]).refuse_new_connections()
    assert accepts(socket.AF_INET, "127.0.0.1", bound[1].port)
    assert path.exists()
    file.close()


def test_where_tls_is_spoken_people_are_told() -> None:
    opened = bind_all([Address("127.0.0.1", 0)]).secured()
    port = opened.addresses[0].port
    assert opened.addresses[0].url == f"https://127.0.0.1:{port}/"
    assert opened.addresses[0].curl("none") == f"curl -X POST https://127.0.0.1:{port}/"
    assert Address(path="/a", secure=True).curl("none").endswith("https://localhost/")
    opened.close()


# unix sockets


@pytest.mark.parametrize(("mode", "umask"), [("660", 0o077), ("0600", 0o000), ("777", 0o022)])
def test_a_socket_file_has_the_mode_asked_for(mode: str, umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        listener, _ = bind(Address(path=str(tmp_path / "socket")), mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == int(mode, 8)
    listener.close()


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


def test_a_socket_that_listens_is_left_alone_whatever_the_name_it_was_bound_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as another:
        another.bind("socket")
        another.listen(0)
        inode = (tmp_path / "socket").stat().st_ino
        for _ in range(3):  # its queue is full then
            with pytest.raises(ListenError, match="Address already in use"):
                bind(Address(path=str(tmp_path / "socket")))
        assert (tmp_path / "socket").stat().st_ino == inode


def test_a_socket_that_is_yet_to_listen_is_found_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var-run").symlink_to("run")
    listener, _ = bind(Address(path=str(tmp_path / "run" / "socket")))
    with pytest.raises(ListenError, match="Address already in use"):
        bind(Address(path=str(tmp_path / "var-run" / "socket")))
    close(listener)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_another_kind_is_left_alone(
    kind: socket.SocketKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, kind) as another:
        another.bind("socket")
        inode = (tmp_path / "socket").stat().st_ino
        with pytest.raises(ListenError, match="Address already in use"):
            bind(Address(path=str(tmp_path / "socket")))
        assert (tmp_path / "socket").stat().st_ino == inode


def test_a_name_in_another_directory_is_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        bound.append(bind(Address(path="socket"))[0])
    monkeypatch.chdir(tmp_path)
    for listener in bound:
        close(listener)
    assert not list(tmp_path.glob("*/socket"))


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


# of other programs


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_served_when_somebody_listens(host: str) -> None:
    port = free_port()
    assert not is_served(port)
    listener, _ = bind(Address(host, port))
    with listener:
        assert not is_served(port)
        listener.listen()
        assert is_served(port)


def test_a_probe_that_meets_itself_has_found_nobody_and_leaves_the_port_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    connect = partial(socket.create_connection, source_address=("127.0.0.1", port))
    monkeypatch.setattr(socket, "create_connection", connect)
    assert not is_served(port)
    with socket.socket() as next_one:
        next_one.bind(("127.0.0.1", port))
