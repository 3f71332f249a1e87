"""API keys: a request must have one of those in a file.

Only hashes of the keys are kept, made with a secret that is drawn at every load. So no key can be
found in memory or in messages between processes, and the time of a comparison tells nothing about
it. The master reads the file once for each generation. A faulty file makes the reload fail; the
current workers, and those that replace them, keep the keys they have.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from obworker.errors import UsageError

if TYPE_CHECKING:
    from obworker.http.environ import Environ
    from obworker.settings import Settings

logger = logging.getLogger("obworker.http")

OPTION = "--api-key-file"
DIGEST_SIZE = 16
# Each request is compared with all of them, and they have to fit in one message.
MOST_KEYS = 1000
SHORT = 16

_KEY = re.compile(r"[!-~]+")


class ApiKeys:
    """The valid keys; `digests` are their hashes, keyed with `secret`."""

    def __init__(self, secret: bytes, digests: Sequence[bytes]) -> None:
        self._secret = secret
        self._digests = tuple(digests)

    @classmethod
    def of(cls, settings: Settings) -> ApiKeys | None:
        """Load the keys that the settings name, if they do.

        Raises:
            UsageError: as `load`.
        """
        return None if settings.api_key_file is None else cls.load(settings.api_key_file)

    @classmethod
    def load(cls, path: str) -> ApiKeys:
        """Read a file with one key a line; empty lines and lines that begin with # are skipped.

        Raises:
            UsageError: it cannot be read, has no key, or has what cannot be one.
        """
        keys = list(_keys_in(_read(path), path))
        if not keys:
            raise UsageError(f"{OPTION}: {path} has no key in it")
        if len(keys) > MOST_KEYS:
            raise UsageError(f"{OPTION}: {path} has {len(keys)} keys, more than {MOST_KEYS}")
        secret = secrets.token_bytes(DIGEST_SIZE)
        return cls(secret, [_digest(key, secret) for key in keys])

    @classmethod
    def unpack(cls, packed: Sequence[str]) -> ApiKeys | None:
        """Return the keys that `pack` has packed, None where there are none."""
        if not packed:
            return None
        secret, *digests = map(bytes.fromhex, packed)
        return cls(secret, digests)

    def pack(self) -> list[str]:
        """Return the keys in a form that a message can carry."""
        return [part.hex() for part in (self._secret, *self._digests)]

    def accepts(self, environ: Environ) -> bool:
        """Whether a request has one of the keys; the time taken does not depend on which."""
        accepted = False
        for given in _given(environ):
            digest = _digest(given, self._secret)
            for known in self._digests:
                accepted |= hmac.compare_digest(known, digest)
        return accepted


def _given(environ: Environ) -> Iterator[str]:
    """Yield the keys in a request, wherever they may be (RFC 6750 2.1, RFC 9110 11.4)."""
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() == "bearer":
        yield token.strip(" ")
    if "HTTP_X_API_KEY" in environ:
        yield environ["HTTP_X_API_KEY"]


def _digest(key: str, secret: bytes) -> bytes:
    return hashlib.blake2b(key.encode("latin-1"), key=secret, digest_size=DIGEST_SIZE).digest()


def _read(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                logger.warning("%s: everybody can read %s; chmod o-r takes that away", OPTION, path)
            return file.read()
    except OSError as error:
        raise UsageError(f"{OPTION}: cannot read {path}: {error.strerror}") from error


def _keys_in(text: str, path: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        place = f"{OPTION}: {path}, line {number}"
        if not _KEY.fullmatch(key):
            raise UsageError(f"{place}: a key is printable ASCII without white space")
        if len(key) < SHORT:
            logger.warning("%s: a key of %d characters can be guessed", place, len(key))
        yield key
