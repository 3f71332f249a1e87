"""Fingerprints of the model's code, to notice that its files have changed since the import."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


def fingerprint(modules: Iterable[ModuleType], directory: Path) -> str:
    """Return a digest of the files of those modules that are in `directory`.

    The files are read now, so call it right after the import.
    """
    digest = hashlib.sha256()
    for path in sorted(_files(modules, directory.resolve())):
        digest.update(os.fsencode(path) + b"\0")
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            digest.update(b"gone")
    return digest.hexdigest()


def _files(modules: Iterable[ModuleType], directory: Path) -> set[Path]:
    named = (getattr(module, "__file__", None) for module in modules)
    files = {Path(name).resolve() for name in named if isinstance(name, str)}
    return {file for file in files if file.is_relative_to(directory)}
