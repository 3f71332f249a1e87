"""A real obworker as its operators see it: probes, commands, and what a reload has no room for."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from clients import Client, Outcome
from harness import ROOT, Serve, Server, eventually, request
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from obworker.control import ask as command

PREDICTOR = """
import fcntl, os, time
class Predictor:
    def __init__(self):
        slot = os.environ["OBWORKER_SLOT"]
        self.device = open(f"device-{slot}", "w")  # as a GPU that has room for one model
        if os.path.exists("no room for two"):
            try:
                fcntl.flock(self.device, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError("CUDA out of memory") from None
    def health(self):
        return not os.path.exists("ill")
    def predict(self, params):
        while "hold" in params and not os.path.exists("go"):
            time.sleep(0.02)
        return os.getpid()
"""

# imported: 30 MiB; each worker: 40 MiB, and 30 MiB in a process that it starts
PREDICTOR_THAT_HOLDS = """
import subprocess, sys
shared = bytearray(b"x" * (30 << 20))
class Predictor:
    def __init__(self):
        self.block = bytearray(b"x" * (40 << 20))
        code = "b = b'x' * (30 << 20); print(flush=True); input()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1)
        child.stdout.readline()
    def predict(self):
        return 1
"""

Start = Callable[..., Server]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """Return the path of the control socket."""
    return tmp_path / "control"


@pytest.fixture
def start(serve: Serve, model: Path, control: Path) -> Start:
    """Start the predictor above with an admin port and a control socket."""
    (model / "predictor.py").write_text(PREDICTOR)

    def start_ready(*argv: str, workers: int = 2) -> Server:
        outside = ("--admin-bind", "127.0.0.1:0", "--control-socket", str(control))
        server = serve("--workers", str(workers), *outside, *argv, str(model))
        return server.wait_until_ready(workers)

    return start_ready


@pytest.fixture
def run(control: Path) -> Run:
    """Run a command for the running obworker."""

    def run_command(*argv: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "obworker", *argv, "--control-socket", str(control)]
        return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)

    return run_command


def ask(port: int, path: str) -> tuple[int, Any]:
    reply = request(port, "GET", path)
    return reply.status, json.loads(reply.body)


def test_the_report_is_about_what_happens(start: Start, model: Path) -> None:
    server = start()
    port = server.admin_port
    status, report = ask(port, "/healthz")
    assert (status, report["status"], report["generation"]) == (200, "ok", 1)
    workers = {slot: process.pid for slot, process in server.workers().items()}
    assert {slot["slot"]: slot["pid"] for slot in report["slots"]} == workers
    thread = Thread(target=lambda: Client(server.port, keep=False).post("/?hold=1"))
    thread.start()

    def busy() -> Any:
        return next((s for s in ask(port, "/healthz")[1]["slots"] if s["state"] == "busy"), None)

    slot = eventually(busy, 5, "a busy slot")
    assert slot["request"]["line"] == "POST /?hold=1 HTTP/1.1"
    (model / "go").touch()
    thread.join()
    server.workers()[1].kill()
    server.wait_until_ready(3)
    last = ask(port, "/healthz")[1]["slots"][1]
    assert last["restarts"] == 1
    assert re.match(
        r"was killed by SIGKILL\b.* after \d+\.\d s of service", last["last_exit"]["text"]
    )


def test_probes_are_answered_on_both_ports_and_tell_of_a_stop(start: Start, model: Path) -> None:
    server = start(workers=1)
    ports = (server.admin_port, server.port)
    for port in ports:
        assert ask(port, "/livez")[0] == 200
        assert ask(port, "/readyz") == (200, {"status": "ok", "ready": True, "reason": None})
    thread = Thread(target=lambda: Client(server.port, keep=False).post("/?hold=1"))
    thread.start()
    eventually(lambda: ask(ports[0], "/healthz")[1]["slots"][0]["state"] == "busy", 5)
    server.signal(signal.SIGTERM)
    eventually(lambda: ask(ports[0], "/readyz")[0] == 503, 2, "not ready")
    assert ask(ports[0], "/readyz")[1]["status"] == "stopping"
    (model / "go").touch()
    thread.join()
    assert server.wait() == 0


def test_it_is_not_ready_with_too_few_workers(start: Start) -> None:
    server = start("--min-ready", "2")
    port = server.admin_port
    assert ask(port, "/readyz")[0] == 200
    server.workers()[1].kill()
    server.wait_until_ready(3)
    server.workers()[1].kill()  # the second time there is a wait
    eventually(lambda: ask(port, "/readyz")[0] == 503, 5, "not ready")
    eventually(lambda: ask(port, "/readyz")[0] == 200, 5, "ready again")
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED


def admin_of(server: Server) -> psutil.Process | None:
    return child_of(server, "obworker: admin")


def child_of(server: Server, title: str) -> psutil.Process | None:
    for child in psutil.Process(server.pid).children():
        with suppress(psutil.Error, IndexError):
            if child.cmdline()[0].startswith(title):
                return child
    return None


def test_the_check_of_the_container_goes_through_no_proxy(start: Start) -> None:
    """Docker gives every container the proxies of its client, loopback not excepted."""
    server = start()
    dockerfile = (ROOT / "conf" / "Dockerfile").read_text()
    check = json.loads(re.findall(r"(?m)^    CMD (\[.*\])$", dockerfile)[0])
    code = check[-1].replace("25253", str(server.admin_port))

    def is_well() -> bool:
        proxy = {"http_proxy": "http://127.0.0.1:1"}
        return not subprocess.run(
            [sys.executable, "-c", code], env=proxy, timeout=30, check=False
        ).returncode

    assert is_well()
    server.stop()
    assert not is_well()


def test_an_admin_process_that_dies_is_replaced(start: Start) -> None:
    server = start()
    port = server.admin_port
    old = admin_of(server)
    assert old is not None
    old.kill()
    eventually(lambda: (new := admin_of(server)) and new.pid != old.pid, 10, "another one")
    assert ask(port, "/livez")[0] == 200
    assert server.stop() == 0


def test_one_that_left_before_its_successor_came_is_said_to_have_left(start: Start) -> None:
    server = start("--reload-strategy", "replace", workers=1)
    server.workers()[0].terminate()
    server.wait_until_ready(2)
    slot = ask(server.admin_port, "/healthz")[1]["slots"][0]
    assert slot["causes"] == {"left": 1}
    assert slot["last_exit"]["text"].startswith("was told to stop by SIGTERM, and exited with code")


def test_commands_do_what_they_say(start: Start, run: Run, model: Path, control: Path) -> None:
    server = start()
    assert "2 of 2 workers ready" in run("status").stdout
    assert json.loads(run("status", "--json").stdout)["pid"] == server.pid
    assert run("reload", "--wait").returncode == 0
    assert json.loads(run("status", "--json").stdout)["generation"] == 2
    assert run("scale", "3").returncode == 0
    eventually(lambda: len(server.workers()) == 3)
    assert run("stacks", "0").returncode == 0
    server.wait_for_log(r"(?s)most recent call first.*worker\.py")
    assert run("stacks", "9").returncode == 1
    (model / "predictor.py").write_text("def def\n")
    failed = run("reload", "--wait")
    assert failed.returncode == 4
    assert "SyntaxError" in failed.stderr
    assert "SyntaxError" in json.loads(run("status", "--json").stdout)["reload_failure"]
    assert control.stat().st_mode & 0o777 == 0o600
    assert run("stop", "--wait").returncode == 0
    assert server.wait() == 0
    assert not control.exists()


def test_who_waits_for_a_reload_is_told_which_generation_it_was(
    start: Start, control: Path
) -> None:
    start("--reload-strategy", "replace", workers=1)
    assert command(control, "reload", wait=True) == {"generation": 2}


def test_a_reload_that_gives_way_to_a_newer_one_is_not_shown_as_one_that_failed(
    start: Start, run: Run, model: Path
) -> None:
    port = start(workers=1).admin_port
    (model / "predictor.py").write_text(f"import time; time.sleep(600){PREDICTOR}")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run, "reload", "--wait")
        eventually(lambda: ask(port, "/healthz")[1]["phase"] == "reloading")
        assert run("reload").returncode == 0
        assert "a newer reload took its place" in first.result().stderr
    report = ask(port, "/healthz")[1]
    assert (report["phase"], report["reload_failure"]) == ("reloading", None)


def test_nothing_is_scaled_or_reloaded_while_it_stops(start: Start, run: Run, model: Path) -> None:
    server = start(workers=1)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(Client(server.port, keep=False).post, "/?hold=1")
        port = server.admin_port
        eventually(lambda: ask(port, "/healthz")[1]["slots"][0]["state"] == "busy", 5)
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping: ")
        refused = [run("scale", "3"), run("reload", "--wait"), run("reload")]
        (model / "go").touch()
        assert answer.result().outcome is Outcome.ANSWERED
    assert [ended.returncode for ended in refused] == [1, 4, 4]
    assert all("obworker is stopping" in ended.stderr for ended in refused)


def test_a_master_that_is_stopped_is_said_to_be_at_once(start: Start, run: Run) -> None:
    server = start(workers=1)
    server.signal(signal.SIGSTOP)
    eventually(lambda: psutil.Process(server.pid).status() == psutil.STATUS_STOPPED)
    began = time.monotonic()
    refused = run("status")
    took = time.monotonic() - began
    server.signal(signal.SIGCONT)
    assert refused.returncode == 1
    assert "is stopped (SIGSTOP): its workers serve on" in refused.stderr
    assert f"hint: kill -CONT {server.pid} lets it go on" in refused.stderr
    assert took < 5
    assert run("status").returncode == 0


def test_commands_work_for_a_start_script(
    serve: Serve, model: Path, run: Run, control: Path
) -> None:
    (model / "start.sh").write_text("exec python3 -m http.server $PORT\n")
    server = serve("--admin-bind", "127.0.0.1:0", "--control-socket", str(control), str(model))
    port = server.admin_port
    assert ask(port, "/readyz")[0] == 200
    assert "1 of 1 workers ready" in run("status").stdout
    assert run("reload", "--wait").returncode == 0
    assert server.log().count("start.sh   ready in ") == 2
    assert run("scale", "2").stderr.startswith("obworker: error: a start.sh cannot be scaled")
    assert run("stacks", "0").returncode == 1
    assert run("stop", "--wait").returncode == 0
    server.wait()


def test_an_address_that_is_asked_for_and_taken_is_an_error(
    start: Start, serve: Serve, model: Path
) -> None:
    taken = f"127.0.0.1:{start().admin_port}"
    other = serve("--admin-bind", taken, str(model))
    assert other.wait() == 2
    assert f"--admin-bind: cannot listen on {taken}" in other.log()


def test_a_predictor_that_is_ill_is_replaced(start: Start, model: Path) -> None:
    server = start("--health-interval", "0.2", workers=1)
    old = server.workers()[0].pid
    (model / "ill").touch()
    server.wait_for_log(r"worker 0 .*: health check: .*; replacing it")
    (model / "ill").unlink()
    eventually(lambda: server.workers().get(0) and server.workers()[0].pid != old)
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED


def test_a_reload_finds_out_that_there_is_no_room_for_two(
    start: Start, run: Run, model: Path
) -> None:
    (model / "no room for two").touch()
    server = start()
    old = {process.pid for process in server.workers().values()}
    assert run("reload", "--wait").returncode == 0
    assert "there is no room beside the old worker, which goes first" in server.log()
    assert not old & {process.pid for process in server.workers().values()}


def test_with_one_worker_it_says_so_instead_of_stopping_to_serve(
    start: Start, run: Run, model: Path
) -> None:
    (model / "no room for two").touch()
    server = start(workers=1)
    failed = run("reload", "--wait")
    assert failed.returncode == 4
    assert "CUDA out of memory" in failed.stderr
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED


def test_a_slot_that_does_not_come_up_is_said_to_who_waits_for_the_reload(
    start: Start, run: Run, model: Path
) -> None:
    start()
    code = PREDICTOR.replace(
        "        self.device", "        if slot == '1': 1 / 0\n        self.device"
    )
    (model / "predictor.py").write_text(code)
    failed = run("reload", "--wait")
    assert failed.returncode == 4
    assert "slot 1: " in failed.stderr
    assert "ZeroDivisionError" in failed.stderr


def test_a_worker_that_the_kernel_killed_for_memory_is_told_from_others(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    short = tmp_path / "short_of_memory.py"
    short.write_text(
        "from obworker.cli import main\nfrom obworker.supervisor.oom import OomKills\n"
        "OomKills.explains_one = lambda self: True\nmain()\n"
    )
    server = serve("--admin-bind", "127.0.0.1:0", str(model), script=short).wait_until_ready()
    port = server.admin_port
    server.workers()[0].kill()
    server.wait_for_log("was killed by SIGKILL, out of memory")
    server.wait_until_ready(2)
    ends = scrape(port)["restarts"].samples
    assert {end.labels["cause"]: end.value for end in ends if end.value} == {"oom": 1}
    mold = child_of(server, "obworker: mold")
    assert mold is not None
    mold.kill()
    server.wait_for_log("the mold was killed by SIGKILL, out of memory")


def test_a_bug_of_ours_ends_a_turn_and_not_the_service(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    bug, begun = tmp_path / "with_a_bug.py", tmp_path / "begun"
    bug.write_text(
        "import pathlib\nfrom obworker.cli import main\n"
        "from obworker.supervisor.workers import Workers\n"
        f"observe, begun = Workers.observe, pathlib.Path({str(begun)!r})\n"
        "def with_a_bug(self):\n    if begun.exists():\n        begun.unlink()\n        1 / 0\n"
        "    observe(self)\n"
        "Workers.observe = with_a_bug\nmain()\n"
    )
    server = serve(str(model), script=bug).wait_until_ready()
    begun.touch()
    server.wait_for_log("ZeroDivisionError")
    server.workers()[0].kill()
    server.wait_until_ready(2)
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED
    assert server.stop() == 0


def scrape(port: int) -> dict[str, Metric]:
    reply = request(port, "GET", "/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(reply.body.decode())
    return {family.name.removeprefix("obworker_"): family for family in families}


def values(family: Metric) -> dict[str, float]:
    """Return the values of a family that are not 0; a worker is called by its slot."""
    return {
        sample.labels.get("slot") or sample.labels["process"]: sample.value
        for sample in family.samples
        if sample.value
    }


def test_a_scrape_is_about_what_happens(start: Start) -> None:
    server = start()
    port = server.admin_port
    for _ in range(5):
        assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED
    server.workers()[1].kill()
    server.wait_until_ready(3)
    told = scrape(port)
    assert sum(values(told["requests"]).values()) == 5
    assert values(told["restarts"]) == {"1": 1}
    [killed] = [sample for sample in told["restarts"].samples if sample.value]
    assert killed.labels["cause"] == "signal"
    assert values(told["requests_in_flight"]) == {}
    assert [sample.value for sample in told["queue_limit"].samples] == [200]


def queued(port: int) -> float:
    return float(scrape(port)["queue_requests"].samples[0].value)


def test_what_waits_is_in_the_queue(start: Start, model: Path) -> None:
    server = start(workers=1)
    port = server.admin_port
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(Client(server.port, keep=False).post, "/?hold=1")
        eventually(lambda: queued(port) == 2, 10, "two that wait")
        assert values(scrape(port)["requests_in_flight"]) == {"0": 1}
        (model / "go").touch()
    eventually(lambda: queued(port) == 0, 10, "an empty queue")


def test_memory_is_measured_of_every_process(start: Start, run: Run, model: Path) -> None:
    (model / "predictor.py").write_text(PREDICTOR_THAT_HOLDS)
    told = scrape(start().admin_port)
    rss, pss, uss = (values(told[f"memory_{kind}_bytes"]) for kind in ("rss", "pss", "uss"))
    assert set(pss) == {"master", "mold", "admin", "0", "1"}
    assert all(0 < uss[who] <= pss[who] <= rss[who] for who in pss)
    assert all(70 << 20 < uss[slot] < 200 << 20 for slot in ("0", "1"))
    # 30 MiB that the mold has made are there once, and in each RSS
    assert sum(pss[who] for who in "01") < sum(rss[who] for who in "01") - (30 << 20)
    status = json.loads(run("status", "--json").stdout)
    assert status["memory"]["pss"] == pytest.approx(sum(pss.values()), rel=0.1)
    for slot in status["slots"]:
        memory = slot["memory"]
        assert memory["uss"] <= memory["pss"] <= memory["rss"]
        assert memory["pss"] == pytest.approx(pss[str(slot["slot"])], rel=0.1)
    text = run("status").stdout
    assert re.search(r"^\d+ MiB of memory in all processes$", text, re.MULTILINE)
    assert len(re.findall(r"^\d +idle .*? cpu +\S+s(?: +\d+){3} ", text, re.MULTILINE)) == 2


PREDICTOR_THAT_FAILS = """
class Predictor:
    def predict(self, params):
        return 1 / int(params["by"])
"""


def test_a_scrape_says_what_failed_and_how_long_requests_took(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text(PREDICTOR_THAT_FAILS)
    keys = tmp_path / "keys"
    keys.write_text("sk-0123456789abcdef\n")
    keys.chmod(0o600)
    argv = ("--workers", "1", "--admin-bind", "127.0.0.1:0", "--api-key-file", str(keys))
    server = serve(*argv, str(model)).wait_until_ready()
    key = {"X-API-Key": "sk-0123456789abcdef"}
    asked = [("/?by=1", key), ("/?by=2", key), ("/?by=0", key), ("/nowhere", key), ("/", {})]
    replies = [server.request(path=path, headers=headers).status for path, headers in asked]
    assert replies == [200, 200, 500, 404, 401]
    port = server.admin_port

    def codes() -> dict[str, float]:
        samples = scrape(port)["responses"].samples
        return {sample.labels["code"]: sample.value for sample in samples}

    eventually(lambda: codes() == {"2xx": 2, "3xx": 0, "4xx": 2, "5xx": 1})
    times = {sample.name: sample.value for sample in scrape(port)["request_seconds"].samples}
    assert times["obworker_request_seconds_count"] == 3
    assert 0 < times["obworker_request_seconds_sum"] < 60
    server.workers()[0].kill()
    server.wait_until_ready(2)
    assert server.request(path="/?by=1", headers=key).status == 200
    eventually(lambda: codes() == {"2xx": 3, "3xx": 0, "4xx": 2, "5xx": 1})
