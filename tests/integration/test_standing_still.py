"""What operators are told when something stands still: an import, a boot, the master."""

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
from obworker.errors import ObworkerError

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
    """Return who shows them; nobody where that is refused."""
    try:
        shown: list[str] = command(control, "stacks", slot=slot)["shown"]
    except ObworkerError:  # or does not listen yet
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


def ask(port: int, path: str) -> tuple[int, Any]:
    reply = request(port, "GET", path)
    return reply.status, json.loads(reply.body)


def stop(process: psutil.Process) -> None:
    process.suspend()
    eventually(lambda: process.status() == psutil.STATUS_STOPPED)


OK = {"status": "ok", "ready": True, "reason": None}
STILL = r"; the master has stood still for \d+ s"


def test_who_dies_while_the_master_stands_still_is_not_said_to_serve(start: Start) -> None:
    server = start(SERVES, "--min-ready", "2").wait_until_ready(2)
    admin, master = server.admin_port, psutil.Process(server.pid)
    workers = server.workers()
    stop(master)
    assert ask(admin, "/readyz")[0] == 200
    workers[0].kill()
    eventually(lambda: ask(admin, "/readyz")[0] == 503)
    # Nobody else accepts on the service's own port any more.
    assert ask(server.port, "/readyz")[0] == 503
    workers[1].kill()
    report = eventually(lambda: (now := ask(admin, "/healthz")[1])["workers"]["ready"] == 0 and now)
    assert re.fullmatch(f"0 of 2 workers ready, 2 needed{STILL}", report["reason"])
    assert [(slot["state"], slot["pid"]) for slot in report["slots"]] == [("reaped", None)] * 2
    assert "\nobworker_ready 0.0\n" in request(admin, "GET", "/metrics").body.decode()
    master.resume()
    eventually(lambda: ask(admin, "/readyz") == (200, OK))
    assert ask(server.port, "/readyz")[0] == 200
    assert server.stop() == 0


def test_a_start_script_that_dies_meanwhile_is_not_said_to_serve(start: Start, model: Path) -> None:
    (model / "start.sh").write_text("exec python3 -m http.server $PORT\n")
    server = start(SERVES)
    admin, master = server.admin_port, psutil.Process(server.pid)
    stop(master)
    pid = ask(admin, "/healthz")[1]["slots"][0]["pid"]
    psutil.Process(pid).kill()
    eventually(lambda: ask(admin, "/readyz")[0] == 503)
    reason = ask(admin, "/readyz")[1]["reason"]
    assert re.fullmatch(f"0 of 1 workers ready, 1 needed{STILL}", reason)
    master.resume()
    eventually(lambda: ask(admin, "/readyz")[0] == 200)
    assert server.stop() == 128 + signal.SIGTERM


def test_every_process_of_obworker_shows_its_stacks_and_goes_on(start: Start) -> None:
    server = start(SERVES).wait_until_ready(2)
    assert server.admin_port
    master = psutil.Process(server.pid)
    everybody = [master, *master.children()]
    assert len(everybody) == 5
    for process in everybody:
        process.send_signal(signal.SIGRTMIN)
    eventually(lambda: server.log().count("Current thread") == 5)
    assert [process.is_running() for process in everybody] == [True] * 5
    assert server.stop() == 0


def test_a_mold_that_stands_still_is_said_not_to_fork(start: Start) -> None:
    server = start(SERVES).wait_until_ready(2)
    master, worker = psutil.Process(server.pid), server.workers()[0]
    mold = next(one for one in master.children() if "mold" in " ".join(one.cmdline()))
    stop(mold)
    worker.kill()
    server.wait_for_log(r"the mold does not fork; killing it\n")
    server.wait_for_log(r"worker 0: was not forked in time; replacing it in ")
    server.wait_until_ready(3)
    assert server.stop() == 0
