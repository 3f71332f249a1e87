"""Broken requests do no harm to a real server, and scripts/fuzz would tell."""

from __future__ import annotations

import itertools
import re
import socket
import threading
import time
from contextlib import suppress
from random import Random

import pytest
from fuzzing import clients
from fuzzing.clients import Tally, send_broken
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


def test_a_server_that_never_comes_to_an_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte that came began the client's time anew."""
    monkeypatch.setattr(clients, "LONGEST_SECONDS", 0.5)
    tally, over = Tally(), iter((False, True))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,), daemon=True)
        thread.start()
        send_broken(listener.getsockname()[1], tally, lambda: next(over), Random(2))
    thread.join(10)
    assert not thread.is_alive()
    assert tally.failures[0].startswith("no end after 0.5 s")


def trickle(listener: socket.socket) -> None:
    """Send a client a byte now and then until it leaves, though not for ever."""
    client, _ = listener.accept()
    with client, suppress(OSError):
        for _ in itertools.repeat(None, 100):
            client.sendall(b".")
            time.sleep(0.05)


def test_a_run_that_sends_nothing_is_an_error_of_usage() -> None:
    for words in (("--seconds", "0"), ("--connections", "0"), ("--seconds", "-1")):
        with running_script("fuzzing", *words) as running:
            _, errors = running.communicate(timeout=60)
        assert (running.returncode, f"argument {words[0]}" in errors) == (2, True)
