"""Addresses and listening sockets: bind, name, and close without losing a connection.

A listener that is lent to us (lent.py) still exists after a stop, so it is left as it is: no client
is refused, no file is removed, and workers do not empty its queue.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from obworker.environment import default_port
from obworker.errors import ListenError
from obworker.settings import Settings
from obworker.supervisor import lent, refusal

PROBE_TIMEOUT = 1.0
RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 s

# The names by which wildcard addresses can be reached on this machine.
WILDCARDS = {"0.0.0.0": "localhost", "::": "localhost", "": "localhost"}  # noqa: S104


@dataclass(frozen=True)
class Address:
    """Where to serve: a host and port, or the path of a unix socket; `secure` means by TLS."""

    host: str = ""
    port: int = 0
    path: str = ""
    secure: bool = False

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse HOST:PORT, [IPV6]:PORT or unix:PATH, which settings has checked."""
        if text.startswith("unix:"):
            return cls(path=text.removeprefix("unix:"))
        host, _, port = text.rpartition(":")
        return cls(host=host.strip("[]"), port=int(port))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def url(self) -> str:
        """The URL for clients on this machine; a zone is escaped (RFC 6874 2)."""
        scheme = "https" if self.secure else "http"
        if self.path:
            return f"{scheme}://localhost/"
        host = WILDCARDS.get(self.host, self.host).replace("%", "%25")
        return f"{scheme}://{_bracketed(host)}:{self.port}/"

    @property
    def shown(self) -> str:
        """The form for people: unix:PATH, or the URL."""
        return str(self) if self.path else self.url

    def curl(self, body_kind: str) -> str:
        """Return a command to try, for a predictor that takes that kind of body."""
        body = {
            "json": "-H 'Content-Type: application/json' -d '{}' ",
            "data": "--data-binary @FILE ",
        }.get(body_kind, "-X POST ")
        through = f"--unix-socket {self.path} " if self.path else ""
        return f"curl {through}{body}{self.url}"

    @classmethod
    def of(cls, listener: socket.socket) -> Address:
        """Return the address of a bound socket; an abstract unix socket gets an @ in front."""
        name = listener.getsockname()
        if listener.family == socket.AF_UNIX:
            return cls(path="@" + name[1:].decode() if isinstance(name, bytes) else name)
        zone = name[3] if listener.family == socket.AF_INET6 else 0
        return cls(
            host=f"{name[0]}%{socket.if_indextoname(zone)}" if zone else name[0], port=name[1]
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True)
class Listeners:
    """The sockets to serve on, and their addresses; `lent` if they were passed to us."""

    sockets: tuple[socket.socket, ...]
    addresses: tuple[Address, ...]
    lent: bool = False

    @classmethod
    def of_lent(cls, sockets: Sequence[socket.socket]) -> Listeners:
        """Return listeners made of sockets that were passed to us."""
        return cls(tuple(sockets), tuple(map(Address.of, sockets)), lent=True)

    def secured(self) -> Listeners:
        """Return the same sockets with addresses for TLS."""
        return replace(self, addresses=tuple(replace(one, secure=True) for one in self.addresses))

    def __str__(self) -> str:
        return ",".join(map(str, self.addresses))

    def refuse_new_connections(self) -> None:
        """Let no new connection begin, except on lent sockets."""
        if not self.lent:
            for listener in self.sockets:
                refusal.refuse_new_connections(listener)

    def withdraw(self) -> None:
        """Close all sockets, and remove the files of our own unix sockets."""
        self.refuse_new_connections()
        self.close()

    def close(self) -> None:
        """Close all sockets in this process."""
        for listener in self.sockets:
            listener.close()


def open_all(
    settings: Settings, environ: Mapping[str, str], passed: Sequence[socket.socket] = ()
) -> Listeners:
    """Take the sockets that systemd passed, or those of --bind fd:N, or else bind the addresses.

    Raises:
        ListenError: one of them cannot be used.
    """
    if not passed and settings.bind is not None and settings.bind.startswith("fd:"):
        passed = lent.from_starter(settings.bind)
    if passed:
        made = Listeners.of_lent(passed)
    else:
        made = bind_all(_addresses(settings, environ), settings.unix_mode)
    return made.secured() if settings.certfile else made


def _addresses(settings: Settings, environ: Mapping[str, str]) -> list[Address]:
    if settings.bind is not None:
        return [Address.parse(text) for text in settings.bind.split(",")]
    port = default_port(environ)[0] if settings.port is None else settings.port
    return [Address(host=settings.host, port=port)]


def bind_all(addresses: Iterable[Address], unix_mode: str | None = None) -> Listeners:
    """Bind all addresses, or none.

    An IPv6 wildcard accepts IPv4, too, unless there is an IPv4 address with the same port.

    Raises:
        ListenError: one of them cannot be bound.
    """
    wanted = list(addresses)
    ipv4_ports = {one.port for one in wanted if one.host and ":" not in one.host}
    bound = []
    with contextlib.ExitStack() as undo:
        for address in wanted:
            made = bind(address, unix_mode, dual_stack=address.port not in ipv4_ports)
            undo.callback(close, made[0])
            bound.append(made)
        undo.pop_all()
    return Listeners(tuple(made[0] for made in bound), tuple(made[1] for made in bound))


def bind(
    address: Address, unix_mode: str | None = None, *, dual_stack: bool = True
) -> tuple[socket.socket, Address]:
    """Bind a socket; return it with its address, in which port 0 has become a real one.

    It does not listen yet: clients are refused until a worker can serve them. `unix_mode` is the
    mode of a unix socket's file, in octal; with `dual_stack` an IPv6 wildcard accepts IPv4, too,
    whatever the system's default (ipv6(7)).

    Raises:
        ListenError: the address is in use, not ours, or not allowed.
    """
    try:
        if address.path:
            return _bind_unix(address, unix_mode), address
        return _bind_tcp(address, dual_stack=dual_stack)
    except OSError as error:
        raise _explain(error, address) from error
    except UnicodeError as error:
        raise ListenError(f"cannot listen on {address}: {address.host!r} is no host") from error


def free_port() -> int:
    """Return a port that is free now, for a program that can only be given a number."""
    with socket.create_server(("", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def is_served(port: int) -> bool:
    """Return whether connections to a port of this machine are accepted, by IPv4 or IPv6."""
    for host in ("127.0.0.1", "::1"):
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, port), PROBE_TIMEOUT) as probe,
        ):
            if probe.getsockname()[:2] != (host, port):
                return True
            # The kernel gave it that very port, so it is connected to itself (RFC 9293 3.5). After
            # a normal close the port would be in TIME_WAIT for a minute.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return False


def close(listener: socket.socket, *, lent: bool = False) -> None:
    """Close a listener, and remove the file of a unix socket unless it is lent to us."""
    if listener.family == socket.AF_UNIX and not lent:
        Path(listener.getsockname()).unlink(missing_ok=True)
    listener.close()


def _bind_tcp(address: Address, *, dual_stack: bool) -> tuple[socket.socket, Address]:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        listener.bind(where)
        claim(listener, alone=True)
    except OSError:
        listener.close()
        raise
    return listener, replace(address, port=listener.getsockname()[1])


def claim(listener: socket.socket, *, alone: bool) -> None:
    """Prevent others from binding the port until it listens (`alone`), or prepare to listen.

    The kernel refuses a second bind unless both sockets have SO_REUSEADDR (socket(7)). It must be
    set again before listening: accepted connections inherit it, and without it those in TIME_WAIT
    would keep the next obworker from the port.
    """
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0 if alone else 1)


def _bind_unix(address: Address, mode: str | None) -> socket.socket:
    path = Path(address.path).absolute()  # so that others find it in /proc/net/unix
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise ListenError(f"cannot listen on {address}: {path} is a file, not a socket")
    if _is_bound(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        if mode is not None:  # nobody can have connected: it does not listen
            path.chmod(int(mode, 8))
    except OSError:
        listener.close()
        raise
    return listener


def _is_bound(path: Path) -> bool:
    """Whether a process has a socket at `path`: the file may be left over from a dead process.

    Connecting finds a server that is bound by another name, or in another network namespace, but
    not one that is bound and does not listen yet: /proc/net/unix has that.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) in (0, errno.EAGAIN, errno.EPROTOTYPE):
            return True
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
        names = {line.split(maxsplit=7)[7] for line in lines if len(line.split()) > 7}
        # resolved, as /var/run is a link to /run
        return os.path.realpath(path) in map(os.path.realpath, filter(os.path.isabs, names))
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
