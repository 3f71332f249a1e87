"""The master's side of the control socket: commands in, answers out, and never a wait.

Theory of operation
-------------------
A client connects, sends one line of JSON and reads one line of JSON:

    {"command": "scale", "arguments": {"workers": 4}}
    {"ok": true, "result": {"workers": 4}}        or  {"ok": false, "error": "…", "exit_code": 1}

All sockets are in the master's selector; the registered `data` is what to call when they are ready.
A line that is a known command with the right arguments becomes a `Request`, which the master
answers now or later: a `reload` with `wait` is answered when the rollout has ended. Whatever else
comes is answered here. A client has seconds to send its line and to read the answer, but any time
to wait for it; there are only so many clients, and a line is only so long.

The socket's file has mode 0600 before anybody can connect: who may command the service is
its user, and root.
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
    """A command that a client waits for the answer of; only the first answer counts."""

    def __init__(
        self, command: str, arguments: Mapping[str, Any], send: Callable[[bytes], None]
    ) -> None:
        self.command = command
        self.arguments = arguments
        self._send = send

    def reply(self, result: Mapping[str, object]) -> None:
        """Say that it is done."""
        self._send(_encode({"ok": True, "result": result}))

    def fail(self, reason: str, exit_code: int = 1) -> None:
        """Say why it could not be done, and the exit code that says so to a script."""
        self._send(_encode({"ok": False, "error": reason, "exit_code": exit_code}))


def parse(line: bytes) -> tuple[str, dict[str, Any]]:
    """Read a command and its arguments.

    Raises:
        ValueError: it is none, and why; so does TypeError, of JSON that has another shape.
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
            ListenError: another obworker does, or it is no place for a socket.
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
        """The moment at which `tend` has something to do."""
        return earliest(self._accepts_at, *(client.deadline for client in self._clients))

    def tend(self, now: float) -> None:
        """Leave clients that take too long to write or to read; accept again after a pause."""
        if self._accepts_at is not None and now >= self._accepts_at:
            self._accepts_at = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        for client in list(self._clients):
            if client.deadline is not None and now >= client.deadline:
                client.close()

    def close(self) -> None:
        """Stop listening and leave all clients; done last, it tells who waits that all is over."""
        if self._accepts_at is None:
            self._selector.unregister(self._listener)
        self.path.unlink(missing_ok=True)  # first: when it is closed, others may bind there
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
        """Answer what is not the master's to answer."""
        self._stop_reading()
        Request("", {}, self._send).fail(reason)

    def close(self) -> None:
        """Leave."""
        self._on_closed(self)
        if self._connection.fileno() >= 0:
            self._stop_reading()
            with contextlib.suppress(OSError):  # what is left unread would reset the connection
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
        # Not read any more: the end of a client that only closed its half would be seen for ever.
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
        except OSError:  # it has gone
            self._answer = b""
        if not self._answer:
            self.close()


def open_control(
    asked: str | None,
    runtime_directory: str | None,
    selector: selectors.BaseSelector,
    on_request: Callable[[Request], None],
) -> Control | None:
    """Listen where `--control-socket` says; without it, in the first directory that will do.

    `runtime_directory` is XDG_RUNTIME_DIR's value.

    Raises:
        ListenError: the path that was asked for cannot be had.
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
