"""Master, mold and workers: what each does when another one, or itself, comes to an end."""

from __future__ import annotations

import collections
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from clients import Client, Load, Outcome, Result, in_parallel
from harness import ROOT, Serve, Server, eventually, run_to_end

from obworker.control import ask
from obworker.supervisor.listeners import free_port

DIGITS = ROOT / "examples" / "digits"
IMAGES = sorted((ROOT / "tests" / "models" / "digits_images").glob("?.png"))

PREDICTOR = """
import os, pathlib, signal, subprocess, sys, time

def note(text):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(text + chr(10))

note("import")

class Predictor:
    def __init__(self):
        note(f"init {os.getpid()}")

    def predict(self, params):
        note("predict")
        for step in params.getlist("do"):
            name, _, value = step.partition(":")
            if name == "sleep":
                time.sleep(float(value))
            elif name == "exit":
                os._exit(int(value))
            elif name == "raise":
                raise SystemExit(int(value))
            elif name == "fork":
                if child := os.fork():
                    note(f"status {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
                elif value == "exit":
                    sys.exit()
                elif value == "raise":
                    raise ValueError
            elif name == "child":
                made = subprocess.Popen(["sleep", "600"], preexec_fn=getattr(os, value, None))
                note(f"child {made.pid}")
            elif name == "deaf":
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.Signals)
        return {"pid": os.getpid(), "slot": int(os.environ["OBWORKER_SLOT"])}
"""
STUCK = "/?do=sleep:600"
GOOD = "class Predictor:\n    def predict(self):\n        return 1\n"

Start = Callable[..., Server]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Return the file where the predictor notes what happens to it."""
    path = tmp_path / "notes"
    path.touch()
    return path


@pytest.fixture
def start(serve: Serve, model: Path, notes: Path) -> Start:
    """Start the predictor above and wait until so many workers are ready."""
    (model / "predictor.py").write_text(PREDICTOR)

    def start_ready(*argv: str, workers: int = 1, listen: tuple[str, ...] | None = None) -> Server:
        more = {} if listen is None else {"listen": listen}
        server = serve(
            "--workers", str(workers), *argv, str(model), environ={"NOTES": str(notes)}, **more
        )
        return server.wait_until_ready(workers)

    return start_ready


def noted(notes: Path, prefix: str) -> list[str]:
    return [line for line in notes.read_text().splitlines() if line.startswith(prefix)]


def count(results: list[Result]) -> dict[Outcome, int]:
    return collections.Counter(result.outcome for result in results)


def title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()).rstrip()


def titles(server: Server) -> list[str]:
    found = []
    for process in psutil.Process(server.pid).children():
        with suppress(psutil.NoSuchProcess):
            found.append(title(process))
    return sorted(found)


def mold_of(server: Server) -> psutil.Process | None:
    for process in psutil.Process(server.pid).children():
        with suppress(psutil.NoSuchProcess):
            if title(process).startswith("obworker: mold "):
                return process
    return None


def replacement(server: Server, slot: int, old: int) -> int:
    """Wait until another process than `old` is ready in a slot; return its pid."""

    def found() -> int | None:
        for pid in re.findall(rf"worker {slot} .* ready in .*, pid (\d+)", server.log()):
            if int(pid) != old and server.workers().get(slot, psutil.Process()).pid == int(pid):
                return int(pid)
        return None

    return eventually(found, 20, f"a replacement of {old} on slot {slot}")


def stick(server: Server, notes: Path, path: str = STUCK) -> socket.socket:
    """Send a request that does not end, and return once predict has it."""
    before = len(noted(notes, "predict"))
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
    eventually(lambda: len(noted(notes, "predict")) > before, what="start of the request")
    return connection


# what there is


def test_the_process_tree_is_the_one_of_the_design(serve: Serve) -> None:
    server = serve("--workers", "4", str(DIGITS)).wait_until_ready(4)
    assert title(psutil.Process(server.pid)) == f"obworker: master {DIGITS}"
    assert titles(server) == [
        "obworker: admin",
        f"obworker: mold g1 {DIGITS}",
        *(f"obworker: worker {slot} g1 cpu" for slot in range(4)),
    ]
    assert {process.ppid() for process in server.workers().values()} == {server.pid}
    assert server.stop() == 0


def test_a_thousand_images_are_read_right(serve: Serve) -> None:
    server = serve("--workers", "4", str(DIGITS)).wait_until_ready(4)
    port = server.port

    def read(keep: bool) -> Result:
        client = Client(port, keep=keep)
        for number in range(125):
            image = IMAGES[number % len(IMAGES)]
            result = client.post(body=image.read_bytes())
            if result.outcome is not Outcome.ANSWERED or result.json["digit"] != int(image.stem):
                return Result(Outcome.FAILED, f"{image.stem}: {result}")
        client.close()
        return Result(Outcome.ANSWERED, "")

    results = in_parallel([lambda: read(True), lambda: read(False)] * 4)
    assert results == [Result(Outcome.ANSWERED, "")] * 8


def test_predictor_py_is_imported_once_and_built_once_for_each_worker(
    start: Start, notes: Path
) -> None:
    server = start(workers=4)
    assert noted(notes, "import") == ["import"]
    pids = {f"init {process.pid}" for process in server.workers().values()}
    assert len(pids) == 4
    assert set(noted(notes, "init")) == pids
    assert len(noted(notes, "init")) == 4


def test_the_start_is_reported(start: Start, model: Path) -> None:
    server = start(workers=2)
    server.wait_for_log("try  ")
    lines = [re.sub(r"^\S+ \S+ INFO +\[\d+\] ", "", line) for line in server.log().splitlines()]
    patterns = [
        r"predictor  predictor\.py: Predictor\(\)\.predict\(params\)",
        r"threads    \d+ each: 2 workers on \d+(\.\d+)? cores?.*",
        r"imported   in \d+\.\d\d s",
        r"worker [01]   cpu ready in \d+\.\d\d s, pid \d+",
        rf"serving    http://127\.0\.0\.1:{server.port}/",
        rf"try        curl -X POST http://127\.0\.0\.1:{server.port}/",
        r"worker [01]   cpu ready in \d+\.\d\d s, pid \d+",
    ]
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


# a worker ends


def test_a_worker_killed_under_load_is_replaced_and_nobody_else_notices(start: Start) -> None:
    server = start(workers=2)
    load = Load(server.port, 8, "/?do=sleep:0.02")
    eventually(lambda: len(load.results) > 100)
    victim = server.workers()[1]
    victim.suspend()  # so that its connections can be counted
    held = [c for c in victim.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
    victim.kill()
    new = replacement(server, 1, victim.pid)
    served_by_new = eventually(
        lambda: any(
            result.outcome is Outcome.ANSWERED and result.json == {"pid": new, "slot": 1}
            for result in load.results[-200:]
        )
    )
    results = load.stop()
    counts = count(results)
    assert served_by_new
    assert counts[Outcome.LOST] + counts[Outcome.CLOSED] <= len(held), (counts, len(held))
    assert counts[Outcome.FAILED] == counts[Outcome.REFUSED] == 0, counts
    assert re.search(
        r"worker 1 .*: was killed by SIGKILL\b.* after \d+\.\d s of service.*; replacing it\n",
        server.log(),
    )
    assert server.stop() == 0


def test_a_predict_that_ends_the_process_costs_one_worker(start: Start) -> None:
    server = start()
    old = server.workers()[0].pid
    assert Client(server.port, keep=False).post("/?do=exit:3").outcome is Outcome.LOST
    new = replacement(server, 0, old)
    assert re.search(r"exited with code 3 after 0\.\d s of service.*; replacing it\n", server.log())
    assert Client(server.port, keep=False).post().json["pid"] == new
    assert server.stop() == 0


def test_a_predict_that_calls_sys_exit_costs_one_request(start: Start) -> None:
    server = start()
    pid = server.workers()[0].pid
    answer = Client(server.port, keep=False).post("/?do=raise:0")
    assert (answer.outcome, answer.text[:3]) == (Outcome.FAILED, "500")
    assert Client(server.port, keep=False).post().json["pid"] == pid


def test_a_worker_killed_again_and_again_is_replaced_ever_more_slowly(start: Start) -> None:
    server = start()
    for _ in range(4):
        old = server.workers()[0]
        old.kill()
        replacement(server, 0, old.pid)
    waits = re.findall(r"by SIGKILL\b.*; replacing it(?: in (\d\.\d) s)?", server.log())
    assert waits[0] == ""
    first, second, third = (float(wait) for wait in waits[1:])
    assert 0.4 <= first <= 0.6
    assert 0.8 <= second <= 1.2
    assert 1.6 <= third <= 2.4
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED


@pytest.mark.parametrize("group", ["", "setpgrp"])
def test_children_of_a_worker_die_with_it(start: Start, notes: Path, group: str) -> None:
    server = start()
    assert Client(server.port, keep=False).post(f"/?do=child:{group}").outcome is Outcome.ANSWERED
    child = int(noted(notes, "child")[0].split()[1])
    assert psutil.pid_exists(child)
    old = server.workers()[0]
    old.kill()
    replacement(server, 0, old.pid)
    eventually(lambda: not psutil.pid_exists(child), 2, "end of the worker's child")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_children_of_a_worker_die_with_it_at_a_stop(
    start: Start, notes: Path, number: signal.Signals
) -> None:
    server = start()
    for group in ("", "setpgrp", "setsid"):
        answer = Client(server.port, keep=False).post(f"/?do=child:{group}")
        assert answer.outcome is Outcome.ANSWERED
    server.signal(number)
    assert server.wait() == 0
    assert server.survivors() == []


def test_a_predict_past_its_timeout_is_answered_504_and_its_worker_is_replaced(
    start: Start,
) -> None:
    server = start("--timeout", "0.5")
    old = server.workers()[0].pid
    began = time.monotonic()
    answer = Client(server.port, keep=True).post(STUCK)
    assert (answer.outcome, answer.text[:3]) == (Outcome.FAILED, "504")
    assert 0.5 <= time.monotonic() - began < 2
    new = replacement(server, 0, old)
    log = server.log()
    assert re.search(r"POST /\?do=sleep:600 HTTP/1.1 took over 0\.[5-9] s, see --timeout\n", log)
    assert "a predict is past its deadline; replacing it\n" in log
    assert re.search(r'File ".*/model/predictor\.py", line \d+ in predict', log), log
    assert Client(server.port, keep=False).post().json["pid"] == new
    assert server.stop() == 0


def test_what_waits_behind_a_predict_that_never_ends_is_told_to_try_again(
    start: Start, notes: Path
) -> None:
    server = start("--timeout", "2")
    old = server.workers()[0].pid
    with stick(server, notes):
        clients = [Client(server.port, keep=False) for _ in range(4)]
        results = in_parallel([partial(client.post, "/") for client in clients])
    assert count(results)[Outcome.LOST] == 0
    refused = [result.text for result in results if result.outcome is Outcome.FAILED]
    assert refused
    assert all(text.startswith("503 ") for text in refused)
    assert replacement(server, 0, old)


@pytest.mark.parametrize("ending", ["exit", "raise", "return"])
def test_a_process_that_predict_forked_answers_nobody(
    start: Start, notes: Path, ending: str
) -> None:
    server = start()
    client = Client(server.port, keep=True)
    (worker,) = server.workers().values()
    for _ in range(2):
        assert client.post(f"/?do=fork:{ending}").json["pid"] == worker.pid
    assert noted(notes, "status") == ["status 1"] * 2
    server.wait_for_log("a process that predict forked came back from it")
    assert client.post("/").json["pid"] == worker.pid
    client.close()
    assert server.stop() == 0


FORKS = """
import os, sys

def fork(where):
    if os.environ["WHERE"] == where:
        if child := os.fork():
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            open("status", "a").write(f"{status}\\n")
        elif os.environ["ENDING"] == "exit":
            sys.exit()
        elif os.environ["ENDING"] == "raise":
            raise ValueError

fork("the import of predictor.py")

class Predictor:
    @classmethod
    def preload(cls):
        fork("preload()")

    def __init__(self):
        fork("__init__")

    def predict(self):
        return os.getpid()
"""


@pytest.mark.parametrize("ending", ["exit", "raise", "return"])
@pytest.mark.parametrize("where", ["the import of predictor.py", "preload()", "__init__"])
def test_a_process_that_is_forked_before_a_predictor_is_built_tells_nobody(
    serve: Serve, model: Path, where: str, ending: str
) -> None:
    (model / "predictor.py").write_text(FORKS)
    server = serve(str(model), environ={"WHERE": where, "ENDING": ending}).wait_until_ready()
    server.wait_for_log(re.escape(f"a process that {where} forked came back from it: it must use"))
    (worker,) = server.workers().values()
    assert Client(server.port, keep=False).post("/").json == worker.pid
    assert (model / "status").read_text() == "1\n"
    assert server.log().count("imported ") == 1
    assert server.stop() == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("closing", ["sys.{0}.close()", "sys.{0} = None", "sys.__{0}__.close()"])
def test_a_service_does_not_need_the_streams_of_its_predictor(
    serve: Serve, model: Path, closing: str, stream: str
) -> None:
    source = f"import sys\n{closing.format(stream)}\n{GOOD}".replace("return 1", "1 / 0")
    (model / "predictor.py").write_text(source)
    server = serve(str(model), "--workers", "2").wait_until_ready(2)
    assert server.request("POST").status == 500
    server.wait_for_log("ZeroDivisionError")
    assert "mold" not in server.log()
    assert server.stop() == 0


CLOSES = """
import os

{at_import}

class Predictor:
    def __init__(self):
        {at_start}

    def predict(self):
        print("to nobody", flush=True)
        return 1
"""


@pytest.mark.parametrize(
    ("at_import", "at_start"),
    [("os.close(1)", "pass"), ("pass", "os.close(1)"), ("os.closerange(0, 3)", "pass")],
)
def test_what_is_printed_to_a_closed_descriptor_gets_into_no_socket(
    serve: Serve, model: Path, at_import: str, at_start: str
) -> None:
    source = CLOSES.format(at_import=at_import, at_start=at_start)
    (model / "predictor.py").write_text(source)
    server = serve(str(model)).wait_until_ready()
    assert server.request().body == b"1"
    worker = server.workers()[0]
    assert Path(f"/proc/{worker.pid}/fd/1").readlink() == Path(os.devnull)
    assert server.stop() == 0


# the mold ends


def test_workers_serve_on_without_the_mold_and_a_new_one_is_made(start: Start) -> None:
    server = start(workers=2)
    before = {slot: process.pid for slot, process in server.workers().items()}
    load = Load(server.port, 4, "/?do=sleep:0.01")
    eventually(lambda: len(load.results) > 20)
    old = mold_of(server)
    assert old is not None
    old.kill()
    eventually(lambda: (new := mold_of(server)) and new.pid != old.pid, what="a new mold")
    server.wait_for_log("the mold was killed by SIGKILL; 2 of 2 workers serve on")
    eventually(lambda: server.log().count("imported  ") == 2, what="a second import")
    assert {slot: process.pid for slot, process in server.workers().items()} == before
    server.workers()[0].kill()
    replacement(server, 0, before[0])
    results = load.stop()
    assert titles(server)[2] == "obworker: worker 0 g2 cpu"
    assert titles(server)[3] == "obworker: worker 1 g1 cpu"
    assert count(results)[Outcome.LOST] + count(results)[Outcome.CLOSED] <= 4
    assert server.stop() == 0


def test_a_worker_killed_together_with_the_mold_is_replaced(start: Start) -> None:
    server = start(workers=2)
    mold, victim = mold_of(server), server.workers()[0]
    assert mold is not None
    mold.kill()
    victim.kill()
    replacement(server, 0, victim.pid)
    assert server.stop() == 0


def test_code_that_no_longer_imports_leaves_the_workers_serving(start: Start, model: Path) -> None:
    server = start(workers=2)
    (model / "predictor.py").write_text("import nowhere_to_be_found\n")
    mold, victim = mold_of(server), server.workers()[0]
    assert mold is not None
    mold.kill()
    server.wait_for_log("nowhere_to_be_found")
    victim.kill()
    server.wait_for_log("nowhere_to_be_found.*; 1 of 2 workers serve on, a new mold starts in ")
    assert Client(server.port, keep=False).post().json["slot"] == 1
    (model / "predictor.py").write_text(PREDICTOR)
    replacement(server, 0, victim.pid)
    assert server.stop() == 0


# the master ends


def test_what_our_own_part_of_a_load_raises_without_words_is_a_line_all_the_same(
    serve: Serve, model: Path
) -> None:
    no_memory = "import os\ndef getcwd():\n    raise MemoryError\nos.getcwd = getcwd\n"
    (model / "predictor.py").write_text(no_memory + GOOD)
    server = serve(str(model))
    assert server.wait() == 4
    assert server.log().endswith("\nobworker: error: MemoryError\n")


@pytest.mark.parametrize("busy", [False, True])
def test_when_the_master_is_killed_every_process_is_gone_within_two_seconds(
    start: Start, notes: Path, busy: bool
) -> None:
    server = start(workers=2)
    connection = stick(server, notes) if busy else None
    server.signal(signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    eventually(lambda: not server.survivors(), 2, "end of all processes")
    if connection:
        connection.close()


def test_term_under_load_loses_no_request(start: Start) -> None:
    server = start(workers=2)
    load = Load(server.port, 10, "/?do=sleep:0.03")
    eventually(lambda: len(load.results) > 100)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    results = load.wait()
    counts = count(results)
    assert counts[Outcome.LOST] == counts[Outcome.FAILED] == 0, [
        result for result in results if result.outcome in (Outcome.LOST, Outcome.FAILED)
    ]
    assert counts[Outcome.REFUSED] == 10
    assert server.survivors() == []
    assert "Traceback" not in server.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a capability to lose")
def test_term_under_load_loses_no_request_without_any_privilege(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(GOOD)
    under = ("setpriv", "--bounding-set", "-net_admin,-net_raw")
    server = serve("--workers", "2", str(model), under=under).wait_until_ready(2)
    load = Load(server.port, 16)
    eventually(lambda: len(load.results) > 200)
    server.signal(signal.SIGTERM)
    counts = count(load.wait())
    assert counts[Outcome.LOST] == counts[Outcome.FAILED] == 0, counts
    assert server.wait() == 0


def test_term_lets_every_request_that_waits_be_answered(start: Start, notes: Path) -> None:
    server = start()
    port = server.port
    connections = [stick(server, notes, "/?do=sleep:0.3")]
    for _ in range(5):
        waiting = socket.create_connection(("127.0.0.1", port), timeout=30)
        waiting.sendall(b"POST /?do=sleep:0.3 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        connections.append(waiting)
    server.signal(signal.SIGTERM)
    answers = [connection.recv(1000)[:12] for connection in connections]
    assert answers == [b"HTTP/1.1 200"] * 6
    for connection in connections:
        connection.close()
    assert server.wait() == 0
    assert server.survivors() == []


def test_term_ends_an_idle_server_at_once(start: Start) -> None:
    server = start(workers=2)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_an_interrupt_waits_for_nobody(start: Start, notes: Path, number: signal.Signals) -> None:
    server = start(workers=2)
    with stick(server, notes):
        began = time.monotonic()
        server.signal(number)
        assert server.wait() == 0
        assert time.monotonic() - began < 2
        assert server.survivors() == []


def test_an_interrupt_cuts_a_graceful_stop_short(start: Start, notes: Path) -> None:
    server = start()
    with stick(server, notes):
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping: ")
        began = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_at_the_very_end_changes_no_exit_code(
    start: Start, number: signal.Signals
) -> None:
    server = start()
    server.signal(signal.SIGTERM)
    server.wait_for_log(r"\] stopped")
    while server.process.poll() is None:
        server.signal(number)
    assert server.wait() == 0


def test_term_with_a_stuck_request_is_over_when_the_graceful_timeout_is(
    start: Start, notes: Path
) -> None:
    server = start("--graceful-timeout", "1")
    with stick(server, notes):
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert 1 <= time.monotonic() - began < 3
        assert server.survivors() == []
        late = (
            r"worker 0 did not finish POST /\?do=sleep:600 HTTP/1.1"
            r" \(1\.\d s, request \S+\) in time; killing it"
        )
        assert re.search(late, server.log())


def test_a_worker_that_is_stopped_cannot_hold_up_the_stop(start: Start) -> None:
    server = start("--graceful-timeout", "1", workers=2)
    server.workers()[1].suspend()
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("where", ["import", "init"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_start_is_quick(
    serve: Serve, model: Path, tmp_path: Path, where: str, number: signal.Signals
) -> None:
    sleep = f"open({str(tmp_path / 'begun')!r}, 'w'), __import__('time').sleep(600)"
    code = {"import": sleep, "init": "pass"}[where]
    init = {"import": "pass", "init": sleep}[where]
    (model / "predictor.py").write_text(
        f"{code}\nclass Predictor:\n    def __init__(self): {init}\n"
        "    def predict(self): return 1\n"
    )
    server = serve(str(model))
    eventually((tmp_path / "begun").exists, what="start of the sleep")
    began = time.monotonic()
    server.signal(number)
    assert server.wait() == 0
    assert time.monotonic() - began < 2
    assert server.survivors() == []


# addresses


def connections_in_time_wait(port: int) -> int:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(
        line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "06" for line in lines
    )


def let_the_server_close(port: int) -> None:
    """Make a request after which the server closes first, so that TIME_WAIT is on its side."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while connection.recv(1000):
            pass


def test_a_restart_takes_the_port_again_at_once(start: Start) -> None:
    server = start()
    port = server.port
    for _ in range(5):
        let_the_server_close(port)
    assert server.stop() == 0
    assert connections_in_time_wait(port) > 0
    again = start(listen=("--host", "127.0.0.1", "--port", str(port)))
    assert Client(port, keep=False).post().outcome is Outcome.ANSWERED
    assert again.stop() == 0


def test_when_the_master_is_killed_in_a_reload_nothing_is_left_of_what_it_imports(
    start: Start, model: Path
) -> None:
    server = start()
    hangs = "print('imports', flush=True)\nsubprocess.run(['sleep', '600'])\n"
    (model / "predictor.py").write_text(f"import subprocess\n{hangs}")
    server.signal(signal.SIGHUP)
    server.wait_for_log("imports\n")
    server.process.kill()
    server.process.wait()
    eventually(lambda: not server.survivors(), 3, "end of all processes")


def test_the_port_of_a_killed_master_is_free_at_once(start: Start) -> None:
    server = start()
    port = server.port
    server.signal(signal.SIGKILL)
    server.wait()
    eventually(lambda: not server.survivors(), 2, "end of all processes")
    again = start(listen=("--host", "127.0.0.1", "--port", str(port)))
    assert again.stop() == 0


def refuse_second(port: int, model: Path) -> None:
    began = time.monotonic()
    second = run_to_end("--host", "127.0.0.1", "--port", str(port), str(model))
    assert second.returncode == 2
    assert time.monotonic() - began < 5
    assert second.stderr.splitlines()[-2:] == [
        f"obworker: error: cannot listen on 127.0.0.1:{port}: Address already in use",
        "hint: another program serves there: stop it, or use --port",
    ]


def test_a_second_obworker_on_the_port_fails_at_once(start: Start, model: Path) -> None:
    server = start()
    refuse_second(server.port, model)
    assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED


def test_a_second_obworker_on_the_port_fails_also_while_the_first_still_loads(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    (model / "predictor.py").write_text(
        f"import pathlib, time\nopen({str(begun)!r}, 'w')\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "class Predictor:\n    def predict(self): return 1\n"
    )
    port = free_port()
    first = serve(str(model), listen=("--host", "127.0.0.1", "--port", str(port)))
    eventually(begun.exists, what="start of the import")
    refuse_second(port, model)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    go.touch()
    first.wait_until_ready()
    refuse_second(port, model)
    assert first.stop() == 0


def ask_unix(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return connection.recv(1000)[:12]


def test_a_unix_socket_is_served_and_removed_at_the_stop(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = start("--bind", f"unix:{path}", listen=())
    assert ask_unix(path) == b"HTTP/1.1 200"
    assert f"serving    unix:{path}\n" in server.log()
    assert f"try        curl --unix-socket {path} -X POST http://localhost/\n" in server.log()
    assert server.stop() == 0
    assert not path.exists()


def test_a_socket_file_that_nobody_serves_is_replaced(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    start("--bind", f"unix:{path}", listen=())
    assert ask_unix(path) == b"HTTP/1.1 200"


def test_a_socket_file_that_somebody_serves_is_left_alone(
    start: Start, tmp_path: Path, model: Path
) -> None:
    path = tmp_path / "socket"
    start("--bind", f"unix:{path}", listen=())
    second = run_to_end("--bind", f"unix:{path}", str(model))
    assert second.returncode == 2
    assert f"obworker: error: cannot listen on unix:{path}: " in second.stderr
    assert ask_unix(path) == b"HTTP/1.1 200"


def test_a_socket_file_of_one_that_still_loads_is_left_alone(
    serve: Serve, tmp_path: Path, model: Path
) -> None:
    path, begun = tmp_path / "socket", tmp_path / "begun"
    (model / "predictor.py").write_text(
        f"import time\nopen({str(begun)!r}, 'w')\ntime.sleep(600)\n"
    )
    serve("--bind", f"unix:{path}", str(model), listen=())
    eventually(begun.exists, what="start of the import")
    inode = path.stat().st_ino
    second = serve("--bind", f"unix:{path}", str(model), listen=())
    assert second.wait(5) == 2
    assert path.stat().st_ino == inode


def test_a_relative_unix_socket_is_relative_to_where_obworker_was_started(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text("class Predictor:\n    def predict(self): return 1\n")
    server = serve("--bind", "unix:socket", str(model), cwd=tmp_path, listen=())
    server.wait_until_ready()
    assert ask_unix(tmp_path / "socket") == b"HTTP/1.1 200"
    assert server.stop() == 0
    assert not (tmp_path / "socket").exists()


def test_no_descriptor_is_open_in_a_worker_that_it_does_not_need(start: Start) -> None:
    server = start(workers=3)
    counts = {slot: process.num_fds() for slot, process in server.workers().items()}
    assert len(set(counts.values())) == 1, counts


def test_replacing_workers_leaks_no_descriptor_in_master_and_mold(start: Start) -> None:
    server = start(workers=2)
    mold = mold_of(server)
    assert mold is not None
    before = psutil.Process(server.pid).num_fds(), mold.num_fds()
    for _ in range(2):
        for slot, process in server.workers().items():
            process.kill()
            replacement(server, slot, process.pid)
    assert (psutil.Process(server.pid).num_fds(), mold.num_fds()) == before
    zombies = [p for p in psutil.Process(server.pid).children() if p.status() == "zombie"]
    assert zombies == []


def test_predict_may_use_signals_and_subprocesses_as_in_any_program(
    serve: Serve, model: Path
) -> None:
    (model / "predictor.py").write_text(
        "import subprocess\n"
        "class Predictor:\n"
        "    def predict(self):\n"
        "        done = subprocess.run(['sh', '-c', 'kill -TERM $$'])\n"
        "        return [done.returncode, subprocess.run(['false']).returncode]\n"
    )
    server = serve(str(model)).wait_until_ready()
    assert server.request().body == b"[-15,1]"


REAP = """
def reap(*_):
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        pass
"""


@pytest.mark.parametrize("reaping", ["signal.SIG_IGN", "reap"])
def test_an_import_may_have_children_reaped_by_themselves(
    serve: Serve, model: Path, reaping: str
) -> None:
    (model / "predictor.py").write_text(
        f"import os, signal\n{REAP}signal.signal(signal.SIGCHLD, {reaping})\n"
        "class Predictor:\n    def predict(self): return 1\n"
    )
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    assert server.request().body == b"1"
    server.workers()[0].kill()
    server.wait_until_ready(3)
    assert server.stop() == 0
    assert "Traceback" not in server.log()
    assert "mold" not in server.log()


DESCRIPTORS = """
import os

def sockets():
    os.system("ls -l /proc/self/fd > descriptors")
    return [line.split()[-1] for line in open("descriptors") if "socket:" in line]

AT_IMPORT = sockets()

class Predictor:
    def predict(self):
        return {"import": AT_IMPORT, "predict": sockets()}
"""


@pytest.mark.parametrize("options", [(), ("--threads", "2")], ids=["main thread", "threads"])
def test_predict_may_end_processes_that_it_forked(
    serve: Serve, model: Path, options: tuple[str, ...]
) -> None:
    (model / "predictor.py").write_text(
        "import multiprocessing, os\n\n\nclass Predictor:\n    def predict(self):\n"
        "        with multiprocessing.get_context('fork').Pool(2) as pool:  # ends by SIGTERM\n"
        "            return [os.getpid(), pool.map(abs, [-1, -2])]\n"
    )
    server = serve(*options, str(model)).wait_until_ready()
    bodies = {server.request().body for _ in range(5)}
    assert bodies == {b"[%d,[1,2]]" % server.workers()[0].pid}


def test_programs_that_the_users_code_runs_inherit_no_socket(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(DESCRIPTORS)
    server = serve(str(model)).wait_until_ready()
    assert server.request().body == b'{"import":[],"predict":[]}'


def test_a_worker_that_floods_its_log_is_not_held_up(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(
        "class Predictor:\n"
        "    def predict(self):\n"
        "        print('x' * 1_000_000)\n"
        "        return 1\n"
    )
    server = serve(str(model)).wait_until_ready()
    assert [server.request().status for _ in range(5)] == [200] * 5
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("source", "process", "place"),
    [
        ("{}\nclass Predictor:\n def predict(self): 0", "obworker: mold", "in <module>"),
        (
            "class Predictor:\n def __init__(self): {}\n def predict(self): 0",
            "obworker: worker",
            "in __init__",
        ),
    ],
    ids=["import", "boot"],
)
def test_what_takes_long_to_load_shows_its_stacks_on_request(
    serve: Serve, model: Path, source: str, process: str, place: str
) -> None:
    wait = "print('waits', flush=True); import time; time.sleep(60)"
    (model / "predictor.py").write_text(source.format(wait))
    server = serve(str(model))
    server.wait_for_log("waits")
    children = psutil.Process(server.pid).children()
    (found,) = [child for child in children if child.cmdline()[0].startswith(process)]
    found.send_signal(signal.SIGRTMIN)
    server.wait_for_log(rf'predictor\.py", line \d {place}', 10)
    assert found.is_running()


def test_a_boot_that_hangs_is_killed_and_the_start_is_given_up(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(
        "import time\nclass Predictor:\n"
        "    def __init__(self): time.sleep(600)\n"
        "    def predict(self): return 1\n"
    )
    server = serve("--boot-timeout", "0.3", str(model))
    assert server.wait(40) == 3
    log = server.log()
    tries = "took longer than 0.3 s to boot, see --boot-timeout, and was killed by SIGABRT while"
    assert len(re.findall(rf"worker 0 .*: {tries} it booted; ", log)) == 5
    assert log.count('/predictor.py", line 3 in __init__') >= 5
    assert "obworker: error: no worker became ready: " in server.log().splitlines()[-1]
    assert server.survivors() == []


def test_output_of_predict_is_in_the_log(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(
        "class Predictor:\n"
        "    def predict(self):\n"
        "        print('said by predict')\n"
        "        return 1\n"
    )
    server = serve(str(model), environ={"PYTHONUNBUFFERED": None}).wait_until_ready()
    server.request()
    eventually(lambda: "said by predict\n" in server.log(), 5, "the predictor's output")


def test_a_worker_that_drains_by_itself_is_replaced_after_the_graceful_timeout(
    start: Start, notes: Path
) -> None:
    server = start("--graceful-timeout", "1", "--timeout", "0")
    with stick(server, notes):
        worker = server.workers()[0]
        worker.terminate()
        assert replacement(server, 0, worker.pid)


def test_a_worker_that_closes_its_channel_is_replaced_and_a_stop_is_still_clean(
    serve: Serve, model: Path
) -> None:
    (model / "predictor.py").write_text(
        "import os\n\n\nclass Predictor:\n    def predict(self):\n"
        "        os.closerange(3, 64)\n        os.kill(os.getpid(), 19)\n"
    )
    server = serve(str(model)).wait_until_ready()
    worker = server.workers()[0]
    with suppress(OSError):
        server.request(timeout=10)
    assert replacement(server, 0, worker.pid)
    assert server.stop() == 0


def test_a_mold_that_dies_again_and_again_before_a_worker_is_ready_ends_the_start(
    serve: Serve, model: Path
) -> None:
    (model / "predictor.py").write_text(
        "import os\nos.register_at_fork(before=lambda: os._exit(9))\n" + GOOD
    )
    server = serve("--workers", "6", str(model))
    assert server.wait(60) == 3
    assert "the process that forks the workers exited with code 9, again and again" in server.log()


LIMITED = """
import os, resource
os.setuid(20_000 + os.getpid() % 40_000)  # root may have any number; a user of its own
resource.setrlimit(resource.RLIMIT_NPROC, ({most}, {most}))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="it needs a user who has no other process")
@pytest.mark.parametrize("most", [1, 2])
def test_a_limit_on_processes_is_named_where_no_worker_can_be_made(
    serve: Serve, model: Path, most: int
) -> None:
    (model / "predictor.py").write_text(LIMITED.format(most=most) + GOOD)
    server = serve("--workers", "1", "--control-socket", str(model / "control"), str(model))
    server.wait_for_log("worker 0: could not be made")
    (slot,) = ask(model / "control", "status")["slots"]
    assert slot["last_exit"]["text"].startswith("could not be made: ")
    assert slot["causes"]["boot"] == slot["restarts"] >= 1
    assert server.wait() == 3
    why = (
        r"could not be made: Resource temporarily unavailable, a limit on processes and threads"
        r" \(pids\.max, TasksMax=, ulimit -u\)"
    )
    assert len(re.findall(rf"worker 0: {why}; ", server.log())) == 5
    assert re.search(rf"error: no worker became ready: the last one {why}\n", server.log())
    assert "the mold" not in server.log()


@pytest.mark.skipif(os.getuid() != 0, reason="it needs a user who has no other process")
def test_a_worker_that_cannot_have_its_threads_is_not_said_to_be_ready(
    serve: Serve, model: Path
) -> None:
    limit = LIMITED.format(most=1).replace("\n", "\n        ")
    built = f"class Predictor:\n    def __init__(self):{limit}\n    def predict(self): return 1\n"
    (model / "predictor.py").write_text(built)
    server = serve("--workers", "1", str(model))
    assert server.wait() == 3
    assert " ready in " not in server.log()
    assert re.search(
        r"error: cannot start a thread: a limit on processes and threads", server.log()
    )


@pytest.mark.parametrize("most", [8, 12, 13, 15, 16])
def test_too_few_descriptors_for_a_start_are_named(serve: Serve, model: Path, most: int) -> None:
    (model / "predictor.py").write_text(GOOD)
    few = ("bash", "-c", f'ulimit -n {most}; exec "$@"', "bash")
    server = serve("--admin-bind", "off", "--control-socket", "off", str(model), under=few)
    assert server.wait() in (2, 4)
    assert re.search(
        r"error: (no mold can be made: )?Too many open files, a limit on descriptors", server.log()
    )
    assert "Traceback" not in server.log()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can hide /proc")
def test_a_start_without_proc_is_refused(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(GOOD)
    hidden = ("unshare", "-m", "sh", "-c", f'mount --bind {model} /proc && exec "$@"', "sh")
    server = serve(str(model), under=hidden)
    assert server.wait() == 2
    assert server.log() == "obworker: error: there is no /proc\nhint: mount -t proc proc /proc\n"


def test_many_workers_start(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(GOOD)
    server = serve("--workers", "40", str(model)).wait_until_ready(40)
    assert sorted(server.workers()) == list(range(40))
    assert server.stop() == 0


def test_memory_that_was_freed_while_it_booted_is_not_kept(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(
        "class Predictor:\n"
        "    def __init__(self):\n"
        "        pieces = [bytes(100_000) for _ in range(2000)]\n"
        "        self.kept = pieces[-1]  # the heap can shrink only from its end\n"
        "    def predict(self):\n"
        "        return 1\n"
    )
    server = serve(str(model)).wait_until_ready()
    assert psutil.Process(server.workers()[0].pid).memory_info().rss < 100e6
