"""Broken requests do no harm to a real server, and scripts/fuzz would tell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
from harness import ROOT, eventually


@contextmanager
def fuzz(*argv: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, "-m", "fuzzing", *argv],
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


def worker_of(running: subprocess.Popen[str]) -> psutil.Process | None:
    for process in psutil.Process(running.pid).children(recursive=True):
        with suppress(psutil.Error):
            if re.match(r"obworker: worker 0 ", " ".join(process.cmdline())):
                return process
    return None


def test_a_server_stands_broken_requests() -> None:
    with fuzz("--seconds", "5") as running:
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, output + errors
    assert errors == ""
    assert int(re.findall(r"(\d+) broken requests", output)[0]) > 500
    assert "\n0 failures" in output


def test_a_worker_that_ends_meanwhile_is_a_failure() -> None:
    with fuzz("--seconds", "3", "--connections", "1", "--seed", "1") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "seed 1\n"
        eventually(lambda: worker_of(running), 15, "a worker").kill()
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "workers were" in errors
