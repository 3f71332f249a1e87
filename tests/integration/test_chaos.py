"""A server stands anything in any order, and scripts/chaos would tell."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from harness import eventually
from scripts_run import running_script, workers_of

pytestmark = pytest.mark.timeout(240)

UNEXPLAINED_SECONDS = 6.0


@pytest.mark.parametrize(
    "argv",
    [
        ("--mode", "plain", "--kills"),
        pytest.param(
            ("--mode", "async", "--tls"),
            marks=pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is missing"),
        ),
    ],
    ids=" ".join,
)
def test_a_server_stands_anything_in_any_order(argv: tuple[str, ...]) -> None:
    with running_script("turmoil", "--seconds", "5", *argv) as running:
        output, errors = running.communicate(timeout=200)
    assert running.returncode == 0, output + errors
    assert errors == ""
    assert int(re.findall(r"(\d+) answered", output)[0]) > 50
    assert "\n0 failures" in output


def test_a_request_that_is_lost_with_a_worker_that_nobody_meant_to_kill_is_a_failure() -> None:
    with running_script("turmoil", "--seconds", "5", "--seed", "1") as running:
        directory = begun(running, seed=1)
        for worker in eventually(lambda: workers_of(running), 30, "workers"):
            worker.kill()
        output, errors = running.communicate(timeout=200)
    assert running.returncode == 1, output
    assert re.search(r"ConnectionResetError|Cut", errors)
    assert f"the log is {directory / 'log'}" in errors
    assert (directory / "log").exists()
    shutil.rmtree(directory)


def test_a_request_that_waits_although_nobody_was_stopped_is_a_failure() -> None:
    with running_script("turmoil", "--seconds", "8", "--seed", "3") as running:
        directory = begun(running, seed=3)
        stopped = eventually(lambda: workers_of(running), 30, "workers")
        for worker in stopped:
            worker.suspend()
        time.sleep(UNEXPLAINED_SECONDS)
        for worker in stopped:
            with suppress(psutil.NoSuchProcess):
                worker.resume()
        output, errors = running.communicate(timeout=200)
    assert running.returncode == 1, output
    assert re.search(r"answered after \d.\d s, and nothing explains", errors), errors
    shutil.rmtree(directory)


def begun(running: subprocess.Popen[str], *, seed: int) -> Path:
    """Wait until requests are answered; return the directory of the run."""
    assert running.stdout is not None
    assert running.stdout.readline() == f"seed {seed}\n"
    directory = Path(re.findall(r"--control-socket (\S+)/", running.stdout.readline())[0])
    eventually(lambda: has_lines(directory / "access"), 60, "answered requests")
    return directory


def has_lines(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 2000
