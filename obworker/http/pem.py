"""The contents of PEM files: read once, so that a later change of a file has no effect."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from obworker.errors import UsageError


class Pem(NamedTuple):
    """The content of a file, with the option and the path that named it."""

    option: str
    path: str
    content: bytes

    @classmethod
    def read(cls, option: str, path: str) -> Pem:
        """Read a file.

        Raises:
            UsageError: it cannot be read.
        """
        try:
            return cls(option, path, Path(path).read_bytes())
        except OSError as error:
            raise UsageError(f"{option}: cannot read {path}: {error.strerror}") from error

    def require(self, label: str, *, hint: str) -> None:
        """Check that there is a block of that kind: OpenSSL's errors do not name the file.

        Raises:
            UsageError: there is none.
        """
        if f"{label}-----".encode() not in self.content:
            text = f"has no {label.lower()} in PEM form"
            raise UsageError(f"{self.option}: {self.path}: {text}", hint=hint)

    @contextlib.contextmanager
    def as_file(self) -> Iterator[str]:
        """Provide a path with this content, in memory: OpenSSL reads keys from files only."""
        with memory_file(self.content) as descriptor:
            yield f"/proc/self/fd/{descriptor}"


@contextlib.contextmanager
def memory_file(content: bytes) -> Iterator[int]:
    """Return the descriptor of a file in memory, which is closed at the end (memfd_create(2)).

    Raises:
        OSError: there is no descriptor left.
    """
    with os.fdopen(os.memfd_create("obworker-pem", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(content)
        yield file.fileno()
