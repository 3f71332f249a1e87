"""The WSGI environ of a request (PEP 3333)."""

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

# The name is from RFC 7239 6.2. It is not empty, as a client on a unix socket has an empty address
# and is trusted as a proxy.
UNKNOWN = ("unknown", "")


def base_environ(
    server: Sequence[Any] | str, client: Sequence[Any] | str, *, is_encrypted: bool = False
) -> Environ:
    """Return what all requests of a connection share; addresses are those that sockets return."""
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
    """Return what all requests of an accepted connection share."""
    is_encrypted = not isinstance(client, socket.socket)
    return base_environ(*_ends_of(client), is_encrypted=is_encrypted)


def _ends_of(client: socket.socket | TlsSocket) -> tuple[Any, Any]:
    """Return the addresses of both sides; UNKNOWN for a client that has reset the connection.

    Its address is lost, but what it has sent can still be read.
    """
    ours = client.getsockname()
    try:
        return ours, client.getpeername()
    except OSError:
        return ours, UNKNOWN


def _host_and_port(address: Sequence[Any] | str) -> tuple[str, str]:
    """Split the address of a socket; both parts are empty for a unix socket."""
    if isinstance(address, str | bytes) or len(address) < 2:
        return "", ""
    return str(address[0]), str(address[1])


def make_environ(base: Environ, request: Request) -> Environ:
    """Return the environ of one request, without wsgi.input; `base` is that of its connection."""
    head = request.head
    environ = base | head.variables
    if head.length is None:  # it was chunked, and has been decoded
        environ["CONTENT_LENGTH"] = str(len(request.body))
    return environ


def variables(head: Head) -> Environ:
    """Return the part of an environ that comes from the head of a request.

    Header fields with an underscore are left out: ``X_A`` and ``X-A`` would be the same variable,
    so a client could forge fields of the proxy in front (nginx drops them for the same reason).
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
        # RFC 9110 5.3, and RFC 6265 5.4 for the separator of cookies
        separator = "; " if variable == "HTTP_COOKIE" else ","
        value = f"{environ[variable]}{separator}{value}"
    environ[variable] = value


def _variable(name: bytes) -> str:
    if name == b"content-type":
        return "CONTENT_TYPE"
    if name == b"content-length":
        return "CONTENT_LENGTH"
    return "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
