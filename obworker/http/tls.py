"""TLS for accepted connections, with the standard library: a context, and an encrypted socket.

Theory of operation. OpenSSL never sees the socket: it reads received bytes from memory, and writes
what is to be sent to memory (ssl.MemoryBIO). So one system call moves many records, no data stays
inside OpenSSL unnoticed by the event loop, and it is known how much has been sent.

A context is made once for each generation, before workers are forked. So all workers share the key
of session tickets, and a client can resume its session with any of them.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from obworker.errors import BadRequest, UsageError
from obworker.http.pem import Pem
from obworker.http.response import error_response, http_date
from obworker.http.stream import Garbled

PROTOCOLS = ["http/1.1"]
# The most plain text in one record (RFC 8446 5.1).
RECORD_SIZE = 1 << 14
# So much is encrypted at a time; it only counts as sent when all of it has been sent.
SEND_SIZE = 4 * RECORD_SIZE
# A client that reads nothing can make TLS produce endless replies (RFC 8446 4.6.3, RFC 5246 7.2.2).
# A handshake needs less than this: clients accept chains of certificates up to 100 KiB.
MOST_UNSENT = 2 * SEND_SIZE
# The start of an HTTP request: OpenSSL only recognises GET, HEAD, POST and PUT.
PLAIN_HTTP = re.compile(rb"[A-Z]+ [/*h]")
LINGER = struct.Struct("ii")
# OpenSSL's reasons when a key does not fit the certificate; the second if the types differ.
MISMATCHES = {"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
CERTIFICATE_HINT = "it begins with -----BEGIN CERTIFICATE"


def context(certificate: Pem, key: Pem, authorities: Pem | None = None) -> ssl.SSLContext:
    """Return a server's context; the certificate and its key may be in the same file.

    With `authorities`, clients must present a certificate that one of these has signed.

    Raises:
        UsageError: a file does not contain what it should, or the key does not fit.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(PROTOCOLS)
    _load_certificate(made, certificate, key)
    if authorities is not None:
        _load_authorities(made, authorities)
    return made


def _load_certificate(made: ssl.SSLContext, certificate: Pem, key: Pem) -> None:
    certificate.require("CERTIFICATE", hint=CERTIFICATE_HINT)
    key.require("PRIVATE KEY", hint="--keyfile names its file")

    def refuse_to_ask() -> NoReturn:
        raise UsageError(
            f"{key.option}: {key.path}: the key is encrypted, and nobody is there to ask for its"
            " passphrase",
            hint="openssl pkey -in KEY -out PLAIN_KEY, readable by obworker alone",
        )

    try:
        with certificate.as_file() as certfile, key.as_file() as keyfile:
            made.load_cert_chain(certfile, keyfile, refuse_to_ask)
    except ssl.SSLError as error:
        if error.reason in MISMATCHES:
            raise UsageError(
                f"{key.option}: {key.path}: the key is not that of the certificate",
                hint=f"the first certificate in {certificate.path} must be the server's own",
            ) from error
        raise _unusable(certificate, error) from error


def _load_authorities(made: ssl.SSLContext, authorities: Pem) -> None:
    authorities.require("CERTIFICATE", hint=CERTIFICATE_HINT)
    try:
        with authorities.as_file() as ca_certs:
            made.load_verify_locations(ca_certs)
    except ssl.SSLError as error:
        raise _unusable(authorities, error) from error
    made.verify_mode = ssl.CERT_REQUIRED


def _unusable(pem: Pem, error: ssl.SSLError) -> UsageError:
    return UsageError(f"{pem.option}: {pem.path}: OpenSSL cannot use it: {_reason(error)}")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "unknown error").replace("_", " ").lower()


class TlsSocket:
    """Wraps an accepted socket in TLS; its methods behave like those of a plain socket.

    The socket must be non-blocking. `recv` also does the handshake.
    """

    def __init__(self, context: ssl.SSLContext, accepted: socket.socket) -> None:
        self._socket = accepted
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""
        self._owed = 0
        self._has_begun = self._ended = self._said_goodbye = self._is_garbled = False

    @property
    def wants_write(self) -> bool:
        """Whether encrypted bytes wait; call send(b"") when the socket is writable."""
        return bool(self._unsent)

    @property
    def is_shaking_hands(self) -> bool:
        """Whether a handshake has begun but not ended."""
        return self._has_begun and self._tls.version() is None

    @property
    def has_ended(self) -> bool:
        """Whether the client's close_notify has arrived, maybe along with its last data."""
        return self._ended

    @property
    def ahead(self) -> int:
        """About how many bytes of what `send` must be given again have left; TLS adds some."""
        return max(0, self._owed - len(self._unsent))

    def recv(self, size: int) -> bytes:
        """Receive up to `size` bytes, and return all the data decrypted from them.

        The result is empty if the client has closed its half.

        Raises:
            BlockingIOError: no more data can be decrypted yet, or Garbled was raised before.
            Garbled: what arrived is not TLS, or the client's certificate is not accepted.
            ConnectionError: the client does not read what TLS sends.
        """
        if self._ended:
            return b""
        arrived = self._socket.recv(size)
        if not arrived:
            return b""
        self._has_begun = True
        if self._is_garbled:
            raise BlockingIOError
        try:
            data = b"".join(self._decrypt(arrived))
        except ssl.SSLError as error:
            self._give_up(error, arrived)
        self._flush()
        if len(self._unsent) > MOST_UNSENT:
            raise ConnectionError("TLS: the client does not read what it asks for")
        if not data and not self._ended:
            raise BlockingIOError
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Send the beginning of `data`, and return how many bytes were sent.

        The caller must give the rest again, as with a plain socket, but unchanged: a part of it may
        be encrypted already.

        Raises:
            BlockingIOError: nothing was sent.
            ConnectionError: the connection is broken.
        """
        view, sent = memoryview(data), 0
        while self._flush():
            sent, self._owed = sent + self._owed, 0
            if sent >= len(view):
                return sent
            self._owed = self._encrypt(view[sent : sent + SEND_SIZE])
        if not sent:
            raise BlockingIOError
        return sent

    def shutdown(self, how: int) -> None:
        """Close our half of the TLS connection (RFC 8446 6.1), then of the TCP connection.

        Raises:
            BlockingIOError: close_notify has to wait; try again when the socket is writable.
        """
        if how != socket.SHUT_RD:
            self._say_goodbye()
            if self._unsent:
                raise BlockingIOError
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the socket; with close_notify, unless SO_LINGER is set for a reset.

        A client that gets no close_notify knows that the response was cut off (RFC 8446 6.1).
        """
        if self.fileno() != -1 and not self._is_to_be_reset:
            self._say_goodbye()
            with contextlib.suppress(OSError):  # a child that predict forked may have it, too
                self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def getpeername(self) -> Any:
        """Return the client's address."""
        return self._socket.getpeername()

    def getsockname(self) -> Any:
        """Return the server's address."""
        return self._socket.getsockname()

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None:
        """Set an option of the socket."""
        self._socket.setsockopt(level, name, value)

    @property
    def _is_to_be_reset(self) -> bool:
        linger = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.size)
        return LINGER.unpack(linger) == (1, 0)

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # we do not await the client's close_notify
            if not self._said_goodbye:
                self._said_goodbye = True
                self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._flush()

    def _decrypt(self, arrived: bytes) -> Iterator[bytes]:
        """Yield the decrypted data. OpenSSL gets a little at a time: its buffer never shrinks."""
        for start in range(0, len(arrived), RECORD_SIZE):
            self._incoming.write(arrived[start : start + RECORD_SIZE])
            yield from self._read_records()

    def _read_records(self) -> Iterator[bytes]:
        while not self._ended and (self._incoming.pending or self._tls.pending()):
            try:
                part = self._tls.read(RECORD_SIZE)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                part = b""
            self._ended = not part
            yield part

    def _encrypt(self, part: memoryview) -> int:
        records = []
        try:
            for start in range(0, len(part), RECORD_SIZE):
                self._tls.write(part[start : start + RECORD_SIZE])
                records.append(self._outgoing.read())
        except ssl.SSLWantReadError:  # the handshake is still under way
            raise BlockingIOError from None
        except ssl.SSLError as error:
            raise ConnectionError(f"TLS: {_reason(error)}") from error
        self._unsent = b"".join(records)
        return len(part)

    def _flush(self) -> bool:
        """Send encrypted bytes; return whether none are left."""
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        if self._unsent:
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        return not self._unsent

    def _give_up(self, error: ssl.SSLError, arrived: bytes) -> NoReturn:
        """Send the TLS alert, or a plain response to plain HTTP; raise Garbled."""
        self._is_garbled = self._said_goodbye = True  # nothing follows the alert or response
        if error.reason == "HTTP_REQUEST" or PLAIN_HTTP.match(arrived):
            self._outgoing.read()
            refusal = BadRequest("this port speaks TLS: use https://")
            self._unsent = error_response(refusal, date=http_date(time.time()))
        with contextlib.suppress(OSError):
            self._flush()
        raise Garbled(f"TLS: {_reason(error)}") from error
