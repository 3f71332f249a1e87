"""A request as WSGI wants it (PEP 3333)."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obworker.http.head import Head
    from obworker.http.parser import Request
    from obworker.http.tls import TlsSocket

Environ = dict[str, Any]

# As RFC 7239 6.2 calls it. Not empty, as the name of a client on a unix socket is, for that is
# trusted to be a proxy.
UNKNOWN = ("unknown", "")


def base_environ(
    server: Sequence[Any] | str, client: Sequence[Any] | str, *, is_encrypted: bool = False
) -> Environ:
    """Make what all requests of a connection share; addresses as sockets give them."""
    server_name, server_port = _host_and_port(server)
    client_name, client_port = _host_and_port(client)
    return {
        "SERVER_SOFTWARE": "obworker",
        "SERVER_NAME": server_name or "localhost",
        "SERVER_PORT": server_port or "80",
        "REMOTE_ADDR": client_name,
        "REMOTE_PORT": client_port,
        "SCRIPT_NAME": "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if is_encrypted else "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def base_of(client: socket.socket | TlsSocket) -> Environ:
    """Make what all requests of an accepted connection share."""
    is_encrypted = not isinstance(client, socket.socket)
    return base_environ(*_ends_of(client), is_encrypted=is_encrypted)


def _ends_of(client: socket.socket | TlsSocket) -> tuple[Any, Any]:
    """Return the addresses of both sides; UNKNOWN for a client that has reset the connection.

    It is not known who that was; what has come from it can be read all the same.
    """
    ours = client.getsockname()
    try:
        return ours, client.getpeername()
    except OSError:
        return ours, UNKNOWN


def _host_and_port(address: Sequence[Any] | str) -> tuple[str, str]:
    """Take apart a socket's address; that of a unix socket is a path or nothing."""
    if isinstance(address, str | bytes) or len(address) < 2:
        return "", ""
    return str(address[0]), str(address[1])


def make_environ(base: Environ, request: Request) -> Environ:
    """Make the environ of one request from what its connection shares, without wsgi.input."""
    head = request.head
    environ = base | head.variables
    if head.length is None:  # it was chunked, and is whole and plain by now
        environ["CONTENT_LENGTH"] = str(len(request.body))
    return environ


def variables(head: Head) -> Environ:
    """Return what an environ has from the head of a request.

    Header fields with an underscore are left out: ``X_A`` and ``X-A`` would be the same variable,
    which lets a client pass for the proxy in front (the reason nginx drops them, too).
    """
    path, target = head.path, head.target.decode("latin-1")
    if b"%" in path:
        path = unquote_to_bytes(path)
    environ = {
        "REQUEST_METHOD": head.method,
        "SERVER_PROTOCOL": "HTTP/" + head.version,
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": head.query.decode("latin-1"),
        "RAW_URI": target,
        "REQUEST_URI": target,
    }
    for name, value in head.fields:
        if b"_" not in name and name != b"transfer-encoding":
            _add_header(environ, name, value.decode("latin-1"))
    return environ


def _add_header(environ: Environ, name: bytes, value: str) -> None:
    variable = _variable(name)
    if variable in environ:
        # RFC 9110 5.3, and RFC 6265 5.4 for what a Cookie is joined by
        separator = "; " if variable == "HTTP_COOKIE" else ","
        value = f"{environ[variable]}{separator}{value}"
    environ[variable] = value


def _variable(name: bytes) -> str:
    if name == b"content-type":
        return "CONTENT_TYPE"
    if name == b"content-length":
        return "CONTENT_LENGTH"
    return "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
