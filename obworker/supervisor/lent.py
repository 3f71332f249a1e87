"""Listening sockets that were made by somebody else and passed to this process.

By systemd (socket activation, sd_listen_fds(3)) or by whoever has started obworker (``--bind
fd:N``). They exist before obworker starts and after it has stopped. So no client is refused in
between, and what waits in their queues is for the next instance.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from obworker.errors import ListenError

SD_LISTEN_FDS_START = 3
ADMIN = "admin"
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Lent(NamedTuple):
    """The sockets that systemd has passed: to serve on, and for the admin process."""

    main: tuple[socket.socket, ...] = ()
    admin: socket.socket | None = None


def from_systemd(environ: Mapping[str, str], first: int = SD_LISTEN_FDS_START) -> Lent:
    """Take the sockets that systemd passed; one may be named ``admin``.

    There are none if LISTEN_PID is another process.

    Raises:
        ListenError: a descriptor is no socket that can listen, or two are named ``admin``.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return Lent()
    main: list[socket.socket] = []
    admin = None
    with contextlib.ExitStack() as undo:
        for name, descriptor in _descriptors(environ, first):
            listener = undo.enter_context(_take_from_systemd(descriptor, name))
            if name != ADMIN:
                main.append(listener)
            elif admin is None:
                admin = listener
            else:
                raise ListenError(
                    f"systemd passed several sockets named {ADMIN}; one can be served"
                )
        undo.pop_all()
    return Lent(tuple(main), admin)


def from_starter(bind: str) -> tuple[socket.socket, ...]:
    """Take the sockets of a list of ``fd:N``, which settings has checked.

    Raises:
        ListenError: there is no such descriptor, or it is no socket that can listen.
    """
    numbers = [int(token.removeprefix("fd:")) for token in bind.split(",")]
    hint = "the program that starts obworker must pass a socket that is bound or listens"
    return tuple(_take(number, f"--bind fd:{number}", hint) for number in numbers)


def _descriptors(environ: Mapping[str, str], first: int) -> Iterator[tuple[str, int]]:
    text = environ.get("LISTEN_FDS", "")
    if not text.isdecimal():
        raise ListenError(f"LISTEN_FDS: {text!r} is not a number")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    for position in range(int(text)):
        yield names[position] if position < len(names) else "", first + position


def _take_from_systemd(descriptor: int, name: str) -> socket.socket:
    label = f"systemd passed descriptor {descriptor} ({name or 'no name'})"
    return _take(descriptor, label, "the .socket unit needs ListenStream= and Accept=no")


def _take(descriptor: int, label: str, hint: str) -> socket.socket:
    """Own an inherited descriptor."""
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(f"{label}: {error.strerror}", hint=hint) from error
    if not _can_listen(listener):
        listener.detach()  # not closed: it may be standard error
        raise ListenError(f"{label}: not a socket that can listen", hint=hint)
    listener.set_inheritable(False)
    return listener


def _can_listen(inherited: socket.socket) -> bool:
    """Whether it is a stream socket that is bound and not connected."""
    if inherited.type != socket.SOCK_STREAM or inherited.family not in FAMILIES:
        return False
    with contextlib.suppress(OSError):
        inherited.getpeername()
        return False
    name = inherited.getsockname()
    return bool(name if inherited.family == socket.AF_UNIX else name[1])
