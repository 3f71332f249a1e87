"""What operators are told when something of obworker stands still: an import, a boot, the master."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import Serve, Server, eventually, request

from obworker.control import ask as command
from obworker.errors import CommandError

HANGS = {
    "import": "import time\ndef load():\n    time.sleep(600)\nload()\n",
    "boot": """
import time
class Predictor:
    def __init__(self):
        self.load()
    def load(self):
        time.sleep(600)
    def predict(self):
        return 1
""",
}
SERVES = """
class Predictor:
    def predict(self):
        return 1
"""

Start = Callable[..., Server]


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """Return the path of the control socket."""
    return tmp_path / "control"


@pytest.fixture
def start(serve: Serve, model: Path, control: Path) -> Start:
    """Start a predictor with an admin port and a control socket."""

    def start_now(code: str, *argv: str) -> Server:
        (model / "predictor.py").write_text(code)
        outside = ("--admin-bind", "127.0.0.1:0", "--control-socket", str(control))
        return serve("--workers", "2", *outside, *argv, str(model))

    return start_now


def show_stacks(control: Path, slot: int) -> list[str]:
    """Return who shows them; nobody, where that is refused."""
    try:
        shown: list[str] = command(control, "stacks", slot=slot)["shown"]
    except CommandError:
        return []
    return shown


@pytest.mark.parametrize(
    ("hangs", "preload", "who"),
    [
        ("import", "auto", r"mold g1 \(pid \d+\)"),
        ("import", "off", r"worker 1 \(pid \d+\)"),
        ("boot", "auto", r"worker 1 \(pid \d+\)"),
    ],
)
def test_what_hangs_before_it_serves_shows_its_stacks_and_goes_on(
    start: Start, control: Path, hangs: str, preload: str, who: str
) -> None:
    server = start(HANGS[hangs], "--preload", preload)
    eventually(control.exists)
    # From the first moment, in which the signal would end a process that does not know it yet.
    eventually(lambda: re.search(who, "\n".join(show_stacks(control, 1))))
    shown = show_stacks(control, 1)
    assert len(shown) == 1
    eventually(lambda: show_stacks(control, 1) and "in load\n" in server.log())
    assert show_stacks(control, 1) == shown
    server.signal(signal.SIGINT)
    server.wait()


def test_a_reload_that_hangs_shows_where_beside_the_worker_that_serves(
    start: Start, control: Path, model: Path
) -> None:
    server = start(SERVES).wait_until_ready(2)
    (model / "predictor.py").write_text(HANGS["import"])
    command(control, "reload", wait=False)
    eventually(lambda: len(show_stacks(control, 0)) == 2)
    assert [who.partition(" (")[0] for who in show_stacks(control, 0)] == ["worker 0", "mold g2"]
    eventually(lambda: show_stacks(control, 0) and "in load\n" in server.log())
    assert show_stacks(control, 9) == []
    assert server.request().body == b"1"
