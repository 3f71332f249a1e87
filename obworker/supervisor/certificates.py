"""The contents of the TLS files in the settings, as they were when the settings were read.

Theory of operation. Only the master reads the files, at the start and for a reload. Every process
that it executes inherits their contents in a memory file. So a replacement uses the same
certificate, even while a new one is being written. OpenSSL is only imported if there is TLS.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obworker.errors import UsageError
from obworker.http.pem import Pem, memory_file

if TYPE_CHECKING:
    import ssl

    from obworker.settings import Settings


@dataclass(frozen=True)
class Certificates:
    """The certificate, its key and the authorities of clients; none where there is to be no TLS."""

    files: tuple[Pem, ...] = field(default=(), repr=False)  # keys must not be logged

    @classmethod
    def of(cls, settings: Settings) -> Certificates:
        """Read the files.

        Raises:
            UsageError: one cannot be read, or is given without a certificate.
        """
        certfile, keyfile, ca_certs = settings.certfile, settings.keyfile, settings.ca_certs
        if not certfile:
            for option, path in (("--keyfile", keyfile), ("--ca-certs", ca_certs)):
                if path:
                    raise UsageError(f"{option}: there is no --certfile", hint="it is for TLS")
            return cls()
        certificate = Pem.read("--certfile", certfile)
        key = Pem.read("--keyfile", keyfile) if keyfile else certificate
        authorities = [Pem.read("--ca-certs", ca_certs)] if ca_certs else []
        return cls((certificate, key, *authorities))

    def context(self) -> ssl.SSLContext | None:
        """Make the context of a server; None without TLS.

        Raises:
            UsageError: the content of a file cannot be used.
        """
        if not self.files:
            return None
        from obworker.http import tls

        return tls.context(*self.files)

    @contextlib.contextmanager
    def lent(self) -> Iterator[int]:
        """Provide a descriptor of the contents, for a process that is executed meanwhile.

        Raises:
            OSError: there is none left.
        """
        packed = [(pem.option, pem.path, pem.content.decode("latin-1")) for pem in self.files]
        with memory_file(json.dumps(packed).encode()) as descriptor:
            yield descriptor

    @classmethod
    def take(cls, descriptor: int) -> Certificates:
        """Read the contents from an inherited descriptor, and close it."""
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            packed = json.load(file)
        return cls(
            tuple(Pem(option, path, text.encode("latin-1")) for option, path, text in packed)
        )
