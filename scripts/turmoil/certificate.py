"""Makes a certificate for localhost with the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make(directory: Path) -> Path:
    """Return a file with a self-signed certificate for localhost and its key."""
    path = directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-noenc", "-days", "2", "-subj", "/CN=localhost", "-out", str(path)),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(path.with_suffix(".key"))),
        ],
        capture_output=True,
        check=True,
    )
    with path.open("a") as both:
        both.write(path.with_suffix(".key").read_text())
    return path
