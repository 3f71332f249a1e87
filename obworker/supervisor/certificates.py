"""What the settings say of TLS. OpenSSL is imported only where they say something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obworker.errors import UsageError

if TYPE_CHECKING:
    import ssl

    from obworker.settings import Settings


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Read the files anew and return a server's context; none where there is to be no TLS.

    Raises:
        UsageError: a file cannot be used, or one is given without a certificate.
    """
    if not settings.certfile:
        for option, path in (("--keyfile", settings.keyfile), ("--ca-certs", settings.ca_certs)):
            if path:
                raise UsageError(f"{option}: there is no --certfile", hint="it is for TLS")
        return None
    from obworker.http import tls

    return tls.context(settings.certfile, settings.keyfile, settings.ca_certs)
