"""Makes certificates for tests with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

HOST = "localhost"


class Certificate(NamedTuple):
    """The files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority, with all its files in one directory."""

    def __init__(self, directory: Path) -> None:
        if not shutil.which("openssl"):
            pytest.skip("the openssl command is not installed")
        self._directory = directory
        # Python 3.13 requires that an authority's certificate names the use of its key (RFC 5280,
        # 4.2.1.3).
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self.own = self._make("authority", "-addext", "basicConstraints=critical,CA:TRUE", *usage)

    def issue(self, name: str) -> Certificate:
        """Make a certificate for localhost and 127.0.0.1, signed by this authority."""
        signed_by = ("-CA", str(self.own.cert), "-CAkey", str(self.own.key))
        names = f"subjectAltName=DNS:{HOST},IP:127.0.0.1"
        is_none = ("-addext", "basicConstraints=critical,CA:FALSE")
        return self._make(name, *signed_by, "-addext", names, *is_none)

    def _make(self, name: str, *options: str) -> Certificate:
        made = Certificate(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-noenc", "-days", "2", "-subj", f"/CN={name}", *options),
            *("-out", str(made.cert), "-keyout", str(made.key)),
        )
        return made


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    """Run the openssl command, and return what it wrote to stdout and stderr."""
    done = subprocess.run(
        ["openssl", *arguments],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
        check=True,
    )
    return done.stdout
