"""A listener that lets nobody in any more, and keeps whom it has."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from obworker.supervisor import refusal
from obworker.supervisor.listeners import Address, bind
from obworker.supervisor.refusal import (
    bind_to_no_interface,
    drop_syn,
    refuse_new_connections,
)

Refuse = Callable[[socket.socket], None]


def skip_where_no_filter_is_allowed() -> None:
    if os.geteuid() != 0:
        pytest.skip("a filter needs CAP_NET_ADMIN")


def assert_what_waits_is_accepted(host: str, refuse: Refuse, error: type[OSError]) -> None:
    with socket.create_server(
        (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    ) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((host, port), timeout=5) as waiting:
            refuse(listener)
            with pytest.raises(error):
                socket.create_connection((host, port), timeout=0.2)
            accepted, _ = listener.accept()
            with accepted:
                waiting.sendall(b"hello")
                assert accepted.recv(10) == b"hello"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    ("refuse", "error"),
    [
        (refuse_new_connections, ConnectionRefusedError),
        (bind_to_no_interface, ConnectionRefusedError),
        (drop_syn, TimeoutError),
    ],
)
def test_nobody_new_is_let_in_and_who_waits_is_served(
    host: str, refuse: Refuse, error: type[OSError]
) -> None:
    if refuse is drop_syn:
        skip_where_no_filter_is_allowed()
    assert_what_waits_is_accepted(host, refuse, error)


def test_a_kernel_without_the_option_gets_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_where_no_filter_is_allowed()
    monkeypatch.setattr(refusal, "SO_BINDTOIFINDEX", 9999)
    assert_what_waits_is_accepted("127.0.0.1", refuse_new_connections, TimeoutError)


def test_the_filter_drops_what_has_the_syn_bit() -> None:
    load, jump, drop, accept = refusal.DROP_SYN
    assert (load[3], jump[3]) == (13, 0x02)
    assert (drop[3], accept[3]) == (0, 0xFFFFFFFF)


def test_the_file_of_a_unix_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener, _ = bind(Address(path=str(path)))
    refuse_new_connections(listener)
    assert not path.exists()
    refuse_new_connections(listener)
    listener.close()
