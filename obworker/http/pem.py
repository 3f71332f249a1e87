"""Files in PEM form, as they were when they were read: whatever uses them later reads no file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from obworker.errors import UsageError


class Pem(NamedTuple):
    """What a file held, and the option and path by which a person knows it."""

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
        """Say which file it is and what is wrong with it: OpenSSL does not.

        Raises:
            UsageError: it has nothing of that kind.
        """
        if f"{label}-----".encode() not in self.content:
            text = f"has no {label.lower()} in PEM form"
            raise UsageError(f"{self.option}: {self.path}: {text}", hint=hint)

    @contextlib.contextmanager
    def as_file(self) -> Iterator[str]:
        """Lend OpenSSL, which takes keys from files only, the name of one that is in memory."""
        with memory_file(self.content) as descriptor:
            yield f"/proc/self/fd/{descriptor}"


@contextlib.contextmanager
def memory_file(content: bytes) -> Iterator[int]:
    """Lend the descriptor of a file that is nowhere but in memory (memfd_create(2)).

    Raises:
        OSError: there is no descriptor left.
    """
    with os.fdopen(os.memfd_create("obworker-pem", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(content)
        yield file.fileno()
