"""Addresses and listening sockets: bind or inherit, name, and close without losing a connection.

A socket that systemd made (socket activation, sd_listen_fds(3)) is only lent. It listens before we
start and goes on when we have stopped, so nobody is refused in between and what waits in its queue
is for whoever starts next. So with a lent listener nothing is done at a stop that lasts: no filter,
no unlink, and no worker empties the queue that it stops accepting from.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from obworker.errors import ListenError

# Where a wildcard address is served, a person reaches it by this name.
WILDCARDS = {"0.0.0.0": "localhost", "::": "localhost", "": "localhost"}  # noqa: S104

SD_LISTEN_FDS_START = 3
MAIN, ADMIN = "main", "admin"


@dataclass(frozen=True)
class Address:
    """Where to serve: a host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Take apart HOST:PORT, [IPV6]:PORT or unix:PATH, which settings has checked."""
        if text.startswith("unix:"):
            return cls(path=text.removeprefix("unix:"))
        host, _, port = text.rpartition(":")
        return cls(host=host.strip("[]"), port=int(port))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What a person on this machine opens."""
        if self.path:
            return "http://localhost/"
        host = WILDCARDS.get(self.host, self.host)
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def curl(self, body_kind: str) -> str:
        """Return a request to try, for a predictor that takes that kind of body."""
        body = {
            "json": "-H 'Content-Type: application/json' -d '{}' ",
            "data": "--data-binary @FILE ",
        }.get(body_kind, "-X POST ")
        through = f"--unix-socket {self.path} " if self.path else ""
        return f"curl {through}{body}{self.url}"

    @classmethod
    def of(cls, listener: socket.socket) -> Address:
        """Return where a socket is bound; an abstract unix socket is written with an @."""
        name = listener.getsockname()
        if listener.family != socket.AF_UNIX:
            return cls(host=name[0], port=name[1])
        return cls(path="@" + name[1:].decode() if isinstance(name, bytes) else name)


def bind(address: Address) -> tuple[socket.socket, Address]:
    """Bind a socket, and return it with the address it has: port 0 becomes a real one.

    It does not listen yet: until a worker does, clients are refused, which is the truth.

    Raises:
        ListenError: the address is in use, not ours, or not allowed.
    """
    try:
        return _bind_unix(address) if address.path else _bind_tcp(address)
    except OSError as error:
        raise _explain(error, address) from error
    except UnicodeError as error:
        raise ListenError(f"cannot listen on {address}: {address.host!r} is no host") from error


class Inherited(NamedTuple):
    """The listeners that systemd lends us: for predictions, and for the admin process."""

    main: socket.socket | None = None
    admin: socket.socket | None = None


def inherited(environ: Mapping[str, str], first: int = SD_LISTEN_FDS_START) -> Inherited:
    """Take the sockets that systemd passed: one named ``admin``, and one of any other name.

    Where LISTEN_PID is not this process, they were meant for another one.

    Raises:
        ListenError: what was passed is not that.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return Inherited()
    found: dict[str, socket.socket] = {}
    with contextlib.ExitStack() as undo:
        for name, descriptor in _descriptors(environ, first):
            role = ADMIN if name == ADMIN else MAIN
            listener = undo.enter_context(_take(descriptor, name))
            if role in found:
                raise ListenError(
                    f"systemd passed several {role} sockets; one can be served",
                    hint=f"one ListenStream=, and one with FileDescriptorName={ADMIN} if need be",
                )
            found[role] = listener
        undo.pop_all()
    return Inherited(**found)


def _descriptors(environ: Mapping[str, str], first: int) -> Iterator[tuple[str, int]]:
    text = environ.get("LISTEN_FDS", "")
    if not text.isdecimal():
        raise ListenError(f"LISTEN_FDS: {text!r} is not a number")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    for position in range(int(text)):
        yield names[position] if position < len(names) else "", first + position


def _take(descriptor: int, name: str) -> socket.socket:
    """Own an inherited descriptor, which must be a stream socket that listens."""
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(
            f"systemd passed descriptor {descriptor} ({name or 'no name'}): {error.strerror}"
        ) from error
    if listener.type == socket.SOCK_STREAM and listener.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        return listener
    listener.close()
    raise ListenError(
        f"systemd passed descriptor {descriptor} ({name or 'no name'}): not a listening socket",
        hint="the .socket unit needs ListenStream= and Accept=no",
    )


def free_port() -> int:
    """Return a port that nobody uses now, for a program that can only be told a number."""
    with socket.create_server(("", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _bind_tcp(address: Address) -> tuple[socket.socket, Address]:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        claim(listener, alone=True)
    except OSError:
        listener.close()
        raise
    return listener, Address(host=address.host, port=listener.getsockname()[1])


def claim(listener: socket.socket, *, alone: bool) -> None:
    """Let nobody else bind the port while we are bound to it and do not listen yet.

    Without SO_REUSEADDR on both sockets the kernel refuses the second bind (socket(7)). It must be
    back before listening: accepted connections inherit it, and without it those in TIME_WAIT would
    keep the next obworker from the port.
    """
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0 if alone else 1)


def _bind_unix(address: Address) -> tuple[socket.socket, Address]:
    path = Path(address.path)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise ListenError(f"cannot listen on {address}: {path} is a file, not a socket")
    if _is_bound(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address.path)
    except OSError:
        listener.close()
        raise
    return listener, address


def _is_bound(path: Path) -> bool:
    """Whether a process has a socket at `path`: the file alone may be left by a dead one.

    To connect would not tell the dead from a server that is bound and does not listen yet.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
        names = {line.split(maxsplit=7)[7] for line in lines if len(line.split()) > 7}
        return str(path) in names or str(path.absolute()) in names
    return path.exists()


def _explain(error: OSError, address: Address) -> ListenError:
    message = f"cannot listen on {address}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        return ListenError(message, hint="another program serves there: stop it, or use --port")
    if error.errno == errno.EACCES and not address.path:
        return ListenError(
            message, hint="ports below 1024 need root or CAP_NET_BIND_SERVICE: use --port 8080"
        )
    return ListenError(message)
