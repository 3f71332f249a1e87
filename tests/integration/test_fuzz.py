"""Broken requests do no harm to a real server, and scripts/fuzz would tell."""

from __future__ import annotations

import re

from harness import eventually
from scripts_run import running_script, workers_of


def test_a_server_stands_broken_requests() -> None:
    with running_script("fuzzing", "--seconds", "5") as running:
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, output + errors
    assert errors == ""
    assert int(re.findall(r"(\d+) broken requests", output)[0]) > 500
    assert "\n0 failures" in output


def test_a_worker_that_ends_meanwhile_is_a_failure() -> None:
    with running_script(
        "fuzzing", "--seconds", "3", "--connections", "1", "--seed", "1"
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "seed 1\n"
        eventually(lambda: workers_of(running), 15, "a worker")[0].kill()
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "workers were" in errors
