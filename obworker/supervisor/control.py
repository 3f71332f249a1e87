"""The master's side of the control socket: takes commands and sends answers, without blocking.

Theory of operation
-------------------
A client connects, sends one line of JSON and reads one line of JSON:

    {"command": "scale", "arguments": {"workers": 4}}
    {"ok": true, "result": {"workers": 4}}        or  {"ok": false, "error": "…", "exit_code": 1}

All sockets are in the master's selector; the `data` of each is the function to call when it is
ready. A line that is a known command with the right arguments becomes a `Request`, which the master
answers now or later: a `reload` with `wait` is answered when the rollout has ended. Anything else
is answered here. A client has a few seconds to send its line and to read the answer; the wait for
the answer is not limited. The number of clients and the length of a line are.

The socket's file has mode 0600 before anybody can connect: only the service's user, and root, can
give commands.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from obworker.errors import ListenError
from obworker.supervisor import listeners, rendezvous
from obworker.supervisor.alarm import earliest
from obworker.supervisor.listeners import Address

logger = logging.getLogger("obworker.master")

MAX_LINE_BYTES = 4096
UNREAD_BYTES = 1 << 20
MAX_CLIENTS = 32
CLIENT_TIMEOUT = 5.0
ACCEPT_RETRY_TIME = 1.0
MODE = 0o600

# Each command, with the arguments that it must have.
COMMANDS: dict[str, dict[str, type]] = {
    "status": {},
    "reload": {"wait": bool},
    "scale": {"workers": int},
    "stop": {"wait": bool},
    "stacks": {"slot": int},
}


class Request:
    """A command whose client waits for an answer; only the first answer counts."""

    def __init__(
        self, command: str, arguments: Mapping[str, Any], send: Callable[[bytes], None]
    ) -> None:
        self.command = command
        self.arguments = arguments
        self._send = send

    def reply(self, result: Mapping[str, object]) -> None:
        """Answer that it is done, with the result."""
        self._send(_encode({"ok": True, "result": result}))

    def fail(self, reason: str, exit_code: int = 1) -> None:
        """Answer why it could not be done, with an exit code for the client's process."""
        self._send(_encode({"ok": False, "error": reason, "exit_code": exit_code}))


def parse(line: bytes) -> tuple[str, dict[str, Any]]:
    """Parse a command and its arguments.

    Raises:
        ValueError: it is none; the message says why.
        TypeError: it is JSON of another shape.
    """
    message = dict(json.loads(line))
    command, arguments = message.get("command"), dict(message.get("arguments", {}))
    if command not in COMMANDS:
        raise ValueError(f"unknown command {command!r}; there are {', '.join(COMMANDS)}")
    wanted = COMMANDS[command]
    kinds = {name: type(value) for name, value in arguments.items()}
    if kinds != wanted:
        named = ", ".join(f"{name} ({kind.__name__})" for name, kind in wanted.items())
        raise ValueError(f"{command} takes {named or 'no arguments'}")
    return command, arguments


def _encode(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Control:
    """The control socket, in the master's selector; `on_request` is called for each command."""

    def __init__(
        self, path: Path, selector: selectors.BaseSelector, on_request: Callable[[Request], None]
    ) -> None:
        """Listen at `path`.

        Raises:
            ListenError: another obworker does, or there can be no socket.
        """
        try:
            self._listener, _ = listeners.bind(Address(path=str(path)))
        except ListenError as error:
            hint = "give another path, or off"
            raise ListenError(f"--control-socket: {error}", hint=hint) from error
        path.chmod(MODE)  # nobody can have connected: it does not listen yet
        self._listener.setblocking(False)
        self._listener.listen(MAX_CLIENTS)
        self.path = path
        self._selector = selector
        self._on_request = on_request
        self._clients: set[_Client] = set()
        self._accepts_at: float | None = None
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def next_deadline(self) -> float | None:
        """When `tend` has something to do."""
        return earliest(self._accepts_at, *(client.deadline for client in self._clients))

    def tend(self, now: float) -> None:
        """Hang up on clients that write or read too slowly; accept again after a pause."""
        if self._accepts_at is not None and now >= self._accepts_at:
            self._accepts_at = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        for client in list(self._clients):
            if client.deadline is not None and now >= client.deadline:
                client.close()

    def close(self) -> None:
        """Stop listening and hang up; done last, as it tells waiting clients that all is over."""
        if self._accepts_at is None:
            self._selector.unregister(self._listener)
        self.path.unlink(missing_ok=True)  # first: once it is closed, others may bind there
        self._listener.close()
        for client in list(self._clients):
            client.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors: trying again at once would spin
            logger.warning("cannot accept a command: %s", error.strerror)
            self._selector.unregister(self._listener)
            self._accepts_at = time.monotonic() + ACCEPT_RETRY_TIME
            return
        connection.setblocking(False)
        client = _Client(connection, self._selector, self._on_request, self._clients.discard)
        self._clients.add(client)
        if len(self._clients) > MAX_CLIENTS:
            client.refuse("too many clients wait already")


class _Client:
    """One connection: reads a line, then writes one. `deadline` is None while the master works."""

    def __init__(
        self,
        connection: socket.socket,
        selector: selectors.BaseSelector,
        on_request: Callable[[Request], None],
        on_closed: Callable[[_Client], None],
    ) -> None:
        self.deadline: float | None = time.monotonic() + CLIENT_TIMEOUT
        self._connection = connection
        self._selector = selector
        self._on_request = on_request
        self._on_closed = on_closed
        self._received = b""
        self._answer: bytes | None = None
        selector.register(connection, selectors.EVENT_READ, self._read)

    def refuse(self, reason: str) -> None:
        """Answer with an error, without the master."""
        self._stop_reading()
        Request("", {}, self._send).fail(reason)

    def close(self) -> None:
        """Hang up."""
        self._on_closed(self)
        if self._connection.fileno() >= 0:
            self._stop_reading()
            with contextlib.suppress(OSError):  # unread data would turn the close into a reset
                self._connection.recv(UNREAD_BYTES)
            self._connection.close()

    def _stop_reading(self) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._connection)

    def _read(self) -> None:
        try:
            part = self._connection.recv(MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        self._received += part
        line, end, _ = self._received.partition(b"\n")
        if end:
            self._take(line)
        elif not part:
            self.close()
        elif len(self._received) >= MAX_LINE_BYTES:
            self.refuse(f"a command is shorter than {MAX_LINE_BYTES} bytes")

    def _take(self, line: bytes) -> None:
        try:
            command, arguments = parse(line)
        except (ValueError, TypeError, RecursionError) as error:
            self.refuse(f"not a command: {error}")
            return
        # Else the selector would report a half-closed connection again and again.
        self._stop_reading()
        self.deadline = None
        self._on_request(Request(command, arguments, self._send))

    def _send(self, answer: bytes) -> None:
        if self._answer is None and self._connection.fileno() >= 0:
            self._answer = answer
            self.deadline = time.monotonic() + CLIENT_TIMEOUT
            self._selector.register(self._connection, selectors.EVENT_WRITE, self._write)
            self._write()

    def _write(self) -> None:
        assert self._answer is not None
        try:
            self._answer = self._answer[self._connection.send(self._answer) :]
        except BlockingIOError:
            return
        except OSError:  # the client has gone
            self._answer = b""
        if not self._answer:
            self.close()


def open_control(
    asked: str | None,
    runtime_directory: str | None,
    selector: selectors.BaseSelector,
    on_request: Callable[[Request], None],
) -> Control | None:
    """Listen at the path that was asked for; by default, in the first suitable directory, if any.

    `runtime_directory` is the value of XDG_RUNTIME_DIR.

    Raises:
        ListenError: the path that was asked for cannot be used.
    """
    if asked == "off":
        return None
    if asked is not None:
        return Control(Path(asked), selector, on_request)
    candidates = rendezvous.directories(runtime_directory, os.getuid())
    directory = rendezvous.prepare(candidates, os.getuid())
    if directory is None:
        places = ", ".join(map(str, candidates))
        logger.warning("no control socket: none of %s will do; see --control-socket", places)
        return None
    rendezvous.remove_stale(directory)
    try:
        path = directory / f"{os.getpid()}{rendezvous.SUFFIX}"
        return Control(path, selector, on_request)
    except ListenError as error:
        logger.warning("no control socket: %s", error)
        return None
