"""Runs those scripts of the repository that start a server, for tests of these scripts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from harness import ROOT


@contextmanager
def running_script(module: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """Run a package of scripts/ while the block runs."""
    running = subprocess.Popen(
        [sys.executable, "-m", module, *argv],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.terminate()
        running.wait(30)


def workers_of(running: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Return the workers of the server that a script has started."""
    found = []
    for process in psutil.Process(running.pid).children(recursive=True):
        with suppress(psutil.Error):
            if re.match(r"obworker: worker ", " ".join(process.cmdline())):
                found.append(process)
    return found
