"""What systemd hears, in what order, and that it can hold nobody up."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from obworker.supervisor.scoreboard import Phase
from obworker.supervisor.systemd import (
    EXTENSION_INTERVAL,
    RETRY_TIME,
    Condition,
    Notifier,
    Told,
    without_systemd,
)

EXTEND = "EXTEND_TIMEOUT_USEC=30000000"
RELOADING = ["RELOADING=1", "MONOTONIC_USEC=5000000"]


def condition(
    phase: Phase = Phase.STARTING, ready: int = 0, slots: int = 2, min_ready: int = 1
) -> Condition:
    return Condition(phase, ready, slots, min_ready, generation=1)


def announced(told: Told, condition: Condition, now: float = 5.0) -> list[str]:
    """Return what is due but for the line of status."""
    lines = told.due(condition, now)[0].split("\n")
    return [line for line in lines if line and not line.startswith("STATUS=")]


@pytest.mark.parametrize(
    ("told", "phase", "ready", "lines"),
    [
        (Phase.STARTING, Phase.STARTING, 0, [EXTEND]),
        (Phase.STARTING, Phase.STARTING, 1, ["READY=1"]),
        (Phase.STARTING, Phase.SERVING, 0, [EXTEND]),
        (Phase.STARTING, Phase.SERVING, 1, ["READY=1"]),
        (Phase.STARTING, Phase.RELOADING, 0, [EXTEND]),
        (Phase.STARTING, Phase.RELOADING, 1, ["READY=1"]),
        (Phase.STARTING, Phase.STOPPING, 0, ["STOPPING=1", EXTEND]),
        (Phase.STARTING, Phase.STOPPING, 2, ["STOPPING=1", EXTEND]),
        (Phase.SERVING, Phase.SERVING, 2, []),
        (Phase.SERVING, Phase.SERVING, 0, []),
        (Phase.SERVING, Phase.STARTING, 0, []),
        (Phase.SERVING, Phase.RELOADING, 2, [*RELOADING, EXTEND]),
        (Phase.SERVING, Phase.STOPPING, 2, ["STOPPING=1", EXTEND]),
        (Phase.RELOADING, Phase.RELOADING, 2, [EXTEND]),
        (Phase.RELOADING, Phase.SERVING, 2, ["READY=1"]),
        (Phase.RELOADING, Phase.STOPPING, 2, ["STOPPING=1", EXTEND]),
        (Phase.STOPPING, Phase.STOPPING, 0, [EXTEND]),
        (Phase.STOPPING, Phase.SERVING, 2, [EXTEND]),
    ],
)
def test_what_is_announced(told: Phase, phase: Phase, ready: int, lines: list[str]) -> None:
    assert announced(Told(phase=told), condition(phase, ready)) == lines


@pytest.mark.parametrize(
    ("ready", "slots", "min_ready", "is_ready"),
    [
        (0, 2, 1, False),
        (1, 2, 1, True),
        (1, 2, 2, False),
        (2, 2, 2, True),
        (1, 2, 3, False),
        (2, 2, 3, True),  # to ask for more than there can be asks for all
        (0, 0, 1, False),
    ],
)
def test_ready_at_min_ready_and_not_before(
    ready: int, slots: int, min_ready: int, is_ready: bool
) -> None:
    lines = announced(Told(), condition(Phase.SERVING, ready, slots, min_ready))
    assert ("READY=1" in lines) == is_ready


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (condition(), "Starting: 0 of 2 workers ready, generation 1"),
        (Condition(Phase.STARTING, 0, 2, 1, 0), "Starting: 0 of 2 workers ready"),
        (
            Condition(Phase.SERVING, 4, 4, 1, 3, "p.py: No\nREADY=1"),
            "Serving: 4 of 4 workers ready, generation 3; the last reload failed: p.py: No READY=1",
        ),
    ],
)
def test_the_status_is_one_line(told: Condition, status: str) -> None:
    assert told.status == status


def test_a_status_is_said_once_until_it_changes() -> None:
    one, two = condition(Phase.SERVING, 1), condition(Phase.SERVING, 2)
    first, told = Told().due(one, 0)
    again, told = told.due(one, 1)
    changed, _ = told.due(two, 1)
    assert first == f"READY=1\nSTATUS={one.status}"
    assert again == ""
    assert changed == f"STATUS={two.status}"


def test_patience_is_asked_for_again_and_again() -> None:
    _, told = Told().due(condition(), 100)
    assert told.next_due == 100 + EXTENSION_INTERVAL
    assert announced(told, condition(), 100 + EXTENSION_INTERVAL - 1) == []
    assert announced(told, condition(), 100 + EXTENSION_INTERVAL) == [EXTEND]


def test_a_phase_that_begins_asks_for_patience_at_once() -> None:
    _, told = Told().due(condition(Phase.SERVING, 2), 0)
    _, told = told.due(condition(Phase.RELOADING, 2), 1)
    _, told = told.due(condition(Phase.SERVING, 2), 2)
    assert EXTEND in announced(told, condition(Phase.STOPPING, 2), 3)


def test_the_watchdog_is_fed_at_its_interval() -> None:
    serving = condition(Phase.SERVING, 2)
    first, told = Told(watchdog_interval=5).due(serving, 100)
    assert "WATCHDOG=1" in first.split("\n")
    assert told.next_due == 105
    assert told.due(serving, 104)[0] == ""
    assert told.due(serving, 105)[0] == "WATCHDOG=1"


def test_nothing_is_due_to_a_service_that_serves_without_a_watchdog() -> None:
    _, told = Told().due(condition(Phase.SERVING, 2), 0)
    assert told.next_due is None


# over a real socket


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Return the socket that a service manager listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    made = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    yield made
    made.close()


SERVING = condition(Phase.SERVING, 2)


def test_systemd_hears_it(manager: socket.socket, notifier: Notifier) -> None:
    assert notifier.tell(SERVING, 1) is None
    assert manager.recv(4096).decode() == f"READY=1\nSTATUS={SERVING.status}"


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # the kernel chooses a name (unix(7), autobind)
        manager.settimeout(5)
        name = "@" + manager.getsockname()[1:].decode()
        notifier = Notifier({"NOTIFY_SOCKET": name})
        notifier.tell(SERVING, 1)
        assert manager.recv(4096).startswith(b"READY=1")
        notifier.close()


def test_what_does_not_arrive_is_said_again(manager: socket.socket, notifier: Notifier) -> None:
    fill(manager)
    assert notifier.tell(SERVING, 1) == 1 + RETRY_TIME
    empty(manager)
    assert notifier.tell(SERVING, 2) is None
    assert manager.recv(4096).startswith(b"READY=1")


def fill(manager: socket.socket) -> None:
    """Send until its queue is full; each time from another socket, for those have a limit too."""
    with suppress(BlockingIOError):
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(b"X=1", manager.getsockname())


def empty(manager: socket.socket) -> None:
    manager.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            manager.recv(4096)


def test_a_systemd_that_has_gone_is_no_error(manager: socket.socket, notifier: Notifier) -> None:
    manager.close()
    assert notifier.tell(SERVING, 1) == 1 + RETRY_TIME


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative"])
def test_without_systemd_nothing_is_due(address: str | None) -> None:
    notifier = Notifier({} if address is None else {"NOTIFY_SOCKET": address})
    assert notifier.tell(condition(), 1) is None
    notifier.close()


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_wants(
    variables: dict[str, str], interval: float | None
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "/nowhere", **variables})
    assert notifier.watchdog_interval == interval
    notifier.close()


def test_children_get_none_of_it() -> None:
    mine = {
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
        *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    }
    environ = {**dict.fromkeys(mine, "1"), "PATH": "/bin", "INVOCATION_ID": "2"}
    assert without_systemd(environ) == {"PATH": "/bin", "INVOCATION_ID": "2"}
