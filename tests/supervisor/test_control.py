"""The control socket: a real one, in the loop of a master that is not one."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from obworker.errors import ListenError
from obworker.supervisor import control
from obworker.supervisor.control import COMMANDS, Control, Request, open_control, parse

STATUS = b'{"command": "status"}\n'


class Loop:
    """A master's loop, turned by the test: everything happens in this thread."""

    def __init__(self, path: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.requests: list[Request] = []
        self.control = Control(path, self.selector, self.requests.append)
        self.clients: list[socket.socket] = []

    def turn(self) -> None:
        """Do what is ready, until nothing is."""
        while self.turn_once():
            pass

    def turn_once(self) -> bool:
        ready = self.selector.select(0)
        for key, _ in ready:
            key.data()
        return bool(ready)

    def connect(self, sent: bytes = b"") -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        self.clients.append(client)
        client.settimeout(5)
        client.connect(str(self.control.path))
        client.sendall(sent)
        self.turn()
        return client

    def close(self) -> None:
        self.control.close()
        self.selector.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def loop(path: Path) -> Iterator[Loop]:
    loop = Loop(path)
    yield loop
    loop.close()


def read(client: socket.socket) -> dict[str, object]:
    """Read the answer; the connection ends after it."""
    answer = client.makefile("rb").read()
    assert answer.endswith(b"\n")
    message = json.loads(answer)
    assert isinstance(message, dict)
    return message


def test_a_command_is_answered_and_the_connection_ends(loop: Loop) -> None:
    client = loop.connect(STATUS)
    [request] = loop.requests
    assert (request.command, request.arguments) == ("status", {})
    request.reply({"pid": 7})
    assert read(client) == {"ok": True, "result": {"pid": 7}}


def test_a_command_that_fails_says_why(loop: Loop) -> None:
    client = loop.connect(b'{"command": "reload", "arguments": {"wait": true}}\n')
    loop.requests[0].fail("predictor.py:1: no", exit_code=4)
    assert read(client) == {"ok": False, "error": "predictor.py:1: no", "exit_code": 4}


def test_several_may_wait_and_are_answered_in_any_order(loop: Loop) -> None:
    first, second = loop.connect(STATUS), loop.connect(STATUS)
    loop.requests[1].reply({"which": 2})
    assert read(second)["result"] == {"which": 2}
    assert loop.control.next_deadline is None
    loop.requests[0].reply({"which": 1})
    assert read(first)["result"] == {"which": 1}


def test_only_the_first_answer_counts(loop: Loop) -> None:
    client = loop.connect(STATUS)
    loop.requests[0].reply({})
    loop.requests[0].fail("too late")
    assert read(client) == {"ok": True, "result": {}}


def test_a_command_may_come_in_pieces_and_the_client_close_its_half(loop: Loop) -> None:
    client = loop.connect(STATUS[:5])
    assert loop.requests == []
    client.sendall(STATUS[5:])
    client.shutdown(socket.SHUT_WR)
    loop.turn()
    loop.requests[0].reply({})
    assert read(client)["ok"] is True


def test_an_answer_larger_than_a_socket_takes_is_sent_as_it_is_read(loop: Loop) -> None:
    client = loop.connect(STATUS)
    loop.requests[0].reply({"text": "x" * 3_000_000})
    client.setblocking(False)
    received = b""
    while not received.endswith(b"\n"):
        loop.turn_once()
        with contextlib.suppress(BlockingIOError):
            received += client.recv(1 << 20)
    assert len(json.loads(received)["result"]["text"]) == 3_000_000


def test_a_client_that_left_is_no_harm(loop: Loop) -> None:
    loop.connect(STATUS).close()
    loop.connect().close()
    loop.connect(b'{"comm').close()
    loop.turn()
    loop.requests[0].reply({})
    loop.turn()
    assert loop.control.next_deadline is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"status", "not a command: Expecting value"),
        (b"[" * 4000, "not a command: "),
        (b"[]", "not a command: unknown command None; there are status, reload, scale, stop, sta"),
        (b"7", "not a command: 'int' object is not iterable"),
        (b'{"command": "explode"}', "not a command: unknown command 'explode'; there are status,"),
        (b'{"command": ["status"]}', "not a command: "),
        (b'{"command": "scale"}', "not a command: scale takes workers (int)"),
        (
            b'{"command": "scale", "arguments": {"workers": true}}',
            "not a command: scale takes workers (int)",
        ),
        (
            b'{"command": "status", "arguments": {"x": 1}}',
            "not a command: status takes no arguments",
        ),
        (b"\xff", "not a command: "),
        (b"x" * 5000, "a command is shorter than 4096 bytes"),
    ],
)
def test_what_is_no_command_is_refused_with_the_reason(
    loop: Loop, line: bytes, reason: str
) -> None:
    answer = read(loop.connect(line + b"\n"))
    assert (answer["ok"], answer["exit_code"]) == (False, 1)
    assert str(answer["error"]).startswith(reason)
    assert loop.requests == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_taken_with_its_arguments(command: str) -> None:
    given = {name: kind() for name, kind in COMMANDS[command].items()}
    line = json.dumps({"command": command, "arguments": given}).encode()
    assert parse(line) == (command, given)


def test_a_client_that_sends_nothing_is_left(loop: Loop) -> None:
    client = loop.connect()
    due = loop.control.next_deadline
    assert due is not None
    assert due - time.monotonic() <= control.CLIENT_TIMEOUT
    loop.control.tend(due - 0.1)
    assert loop.control.next_deadline == due
    loop.control.tend(due)
    assert client.recv(1) == b""
    assert loop.control.next_deadline is None


def test_a_client_that_does_not_read_is_left(loop: Loop) -> None:
    loop.connect(STATUS)
    loop.requests[0].reply({"text": "x" * 3_000_000})
    due = loop.control.next_deadline
    assert due is not None
    loop.control.tend(due)
    assert loop.control.next_deadline is None


def test_more_clients_than_there_may_be_are_refused(loop: Loop) -> None:
    waiting = [loop.connect(STATUS) for _ in range(control.MAX_CLIENTS)]
    assert read(loop.connect(STATUS))["error"] == "too many clients wait already"
    loop.requests[0].reply({})
    assert read(waiting[0])["ok"] is True
    loop.connect(STATUS)
    assert len(loop.requests) == control.MAX_CLIENTS + 1


def test_its_end_is_the_end_of_who_waits(path: Path) -> None:
    loop = Loop(path)
    client = loop.connect(STATUS)
    loop.control.close()
    assert client.recv(1) == b""
    loop.requests[0].reply({})
    assert not path.exists()
    client.close()
    loop.selector.close()


def test_only_its_user_can_connect(loop: Loop, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_path_where_another_listens_is_an_error(loop: Loop, path: Path) -> None:
    with pytest.raises(ListenError, match=r"^--control-socket: cannot listen on .*in use"):
        Control(path, loop.selector, loop.requests.append)


def test_a_path_that_a_dead_one_left_is_taken(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    loop = Loop(path)
    loop.connect(STATUS)
    assert len(loop.requests) == 1
    loop.close()


# where it listens


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        yield selector


def ignore(request: Request) -> None:
    """Do nothing."""


def test_off_is_off(selector: selectors.BaseSelector) -> None:
    assert open_control("off", None, selector, ignore) is None


def test_it_listens_where_it_was_asked_to(path: Path, selector: selectors.BaseSelector) -> None:
    opened = open_control(str(path), None, selector, ignore)
    assert opened is not None
    assert opened.path == path
    opened.close()


def test_a_path_that_was_asked_for_and_cannot_be_is_an_error(
    tmp_path: Path, selector: selectors.BaseSelector
) -> None:
    with pytest.raises(ListenError):
        open_control(str(tmp_path / "no" / "such"), None, selector, ignore)


def test_else_it_listens_in_the_runtime_directory(
    tmp_path: Path, selector: selectors.BaseSelector
) -> None:
    opened = open_control(None, str(tmp_path), selector, ignore)
    assert opened is not None
    assert opened.path.parent == tmp_path / "obworker"
    assert opened.path.stem.isdecimal()
    opened.close()
