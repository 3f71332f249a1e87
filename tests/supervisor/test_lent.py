"""Listening sockets that systemd, or whoever started us, has made."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from obworker.errors import ListenError
from obworker.supervisor.lent import Lent, from_starter, from_systemd
from obworker.supervisor.listeners import Address, Listeners, bind

Pass = Callable[..., Lent]


@pytest.fixture
def passed() -> Iterator[Pass]:
    """Pass sockets by descriptors in a row, as systemd does, and inherit them."""
    first = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 10
    kept: list[socket.socket] = []
    descriptors: list[int] = []

    def inherit(*sockets: socket.socket, **variables: str) -> Lent:
        kept.extend(sockets)
        for number, given in enumerate(sockets, first):
            descriptors.append(os.dup2(given.fileno(), number, inheritable=True))
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets))}
        return from_systemd(environ | variables, first)

    yield inherit
    for given in kept:
        given.close()
    for descriptor in descriptors:
        with suppress(OSError):  # whoever inherited it may have closed it
            os.close(descriptor)


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_without_systemd_nothing_is_inherited() -> None:
    assert from_systemd({}) == Lent()


def test_sockets_for_another_process_are_left_alone(passed: Pass) -> None:
    assert passed(listening(), LISTEN_PID="1") == Lent()


def test_a_socket_is_served_on_whatever_its_name(passed: Pass) -> None:
    given = listening()
    (main,), admin = passed(given, LISTEN_FDNAMES="obworker.socket")
    assert Address.of(main) == Address("127.0.0.1", given.getsockname()[1])
    assert admin is None
    assert not main.get_inheritable()
    main.close()


def test_all_sockets_are_served_on_but_for_the_one_named_admin(passed: Pass) -> None:
    one, other, third = listening(), listening(), listening()
    main, admin = passed(one, other, third, LISTEN_FDNAMES="a:admin:b")
    served = Listeners.of_lent(main)
    ports = [each.getsockname()[1] for each in (one, third)]
    assert str(served) == f"127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
    assert served.lent
    assert admin
    admin.close()
    served.close()


@pytest.mark.parametrize(("names", "first"), [("admin:main", "admin"), ("x:admin", "main")])
def test_one_named_admin_is_for_the_admin_process(passed: Pass, names: str, first: str) -> None:
    one, other = listening(), listening()
    found = passed(one, other, LISTEN_FDNAMES=names)
    assert found.admin
    by_role = {"main": found.main[0], "admin": found.admin}
    assert by_role[first].getsockname() == one.getsockname()
    found.main[0].close()
    found.admin.close()


def test_a_unix_socket_may_be_lent(passed: Pass, tmp_path: Path) -> None:
    given, address = bind(Address(path=str(tmp_path / "socket")))
    given.listen()
    (main,) = passed(given).main
    assert Address.of(main) == address
    main.close()


def test_an_abstract_unix_socket_has_an_address(passed: Pass) -> None:
    given = socket.socket(socket.AF_UNIX)
    given.bind("")
    given.listen()
    (main,) = passed(given).main
    assert Address.of(main).path == "@" + given.getsockname()[1:].decode()
    main.close()


@pytest.fixture(params=["unbound", "datagrams", "a pair", "a connection"])
def no_listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Return a socket that nobody can listen on."""
    with ExitStack() as opened:
        if request.param == "unbound":
            found = socket.socket()
        elif request.param == "datagrams":
            found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        elif request.param == "a pair":
            found, peer = socket.socketpair()
            opened.enter_context(peer)
        else:
            server = opened.enter_context(listening())
            found = socket.create_connection(server.getsockname())
        yield opened.enter_context(found)


def test_what_cannot_listen_is_refused(passed: Pass, no_listener: socket.socket) -> None:
    with pytest.raises(ListenError, match="not a socket that can listen") as error:
        passed(no_listener, LISTEN_FDNAMES="main")
    assert error.value.hint == "the .socket unit needs ListenStream= and Accept=no"


def test_two_for_the_admin_process_are_refused(passed: Pass) -> None:
    with pytest.raises(ListenError, match="several sockets named admin; one can be served"):
        passed(listening(), listening(), LISTEN_FDNAMES="admin:admin")


@pytest.mark.parametrize("count", ["", "many", "-1"])
def test_a_count_that_is_none_is_refused(passed: Pass, count: str) -> None:
    with pytest.raises(ListenError, match=f"LISTEN_FDS: '{count}' is not a number"):
        passed(LISTEN_FDS=count)


def test_a_descriptor_that_is_not_there_is_refused(passed: Pass) -> None:
    with pytest.raises(ListenError, match="Bad file descriptor"):
        passed(LISTEN_FDS="1", LISTEN_FDNAMES="main")


# sockets of whoever started us


def test_inherited_descriptors_are_served_on(tmp_path: Path) -> None:
    listens = listening()
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(tmp_path / "socket"))
    passed = [os.dup(each.fileno()) for each in (listens, bound)]
    taken = from_starter(f"fd:{passed[0]},fd:{passed[1]}")
    addresses = f"127.0.0.1:{listens.getsockname()[1]},unix:{tmp_path}/socket"
    assert str(Listeners.of_lent(taken)) == addresses
    for each in (listens, bound, *taken):
        each.close()


def test_a_descriptor_that_cannot_listen_is_refused_and_left_open(
    no_listener: socket.socket,
) -> None:
    descriptor = no_listener.fileno()
    with pytest.raises(
        ListenError, match=f"^--bind fd:{descriptor}: not a socket that can listen$"
    ):
        from_starter(f"fd:{descriptor}")
    os.fstat(descriptor)


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        expected = f"^--bind fd:{file.fileno()}: Socket operation on non-socket$"
        with pytest.raises(ListenError, match=expected):
            from_starter(f"fd:{file.fileno()}")


def test_a_descriptor_that_nobody_passed_is_refused() -> None:
    with pytest.raises(ListenError, match=r"^--bind fd:9999999: Bad file descriptor$") as error:
        from_starter("fd:9999999")
    assert error.value.hint == (
        "the program that starts obworker must pass a socket that is bound or listens"
    )
