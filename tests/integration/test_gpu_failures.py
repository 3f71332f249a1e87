"""GPUs that fail under a real obworker, with a torch that has no GPU and fails when told to."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import Reply, Serve, Server, command, eventually, request

# What torch does when a kernel fails: from then on everything in this process fails, too.
TORCH = """
class AcceleratorError(RuntimeError):
    def __init__(self, code, message):
        advice = "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\\n"
        super().__init__(f"CUDA error: {message}\\n{advice}")
        self.error_code = code

class OutOfMemoryError(RuntimeError):
    pass

poisoned = False

def set_num_threads(count):
    pass

def launch(kernel):
    global poisoned
    if kernel == "assert":
        poisoned = True
    if poisoned:
        raise AcceleratorError(710, "device-side assert triggered")
    if kernel == "large":
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
"""

# A request says what is to happen, and on which GPU; a file broken-0 that GPU 0 fails in a start,
# one slow-0 that a start on it takes as long as there is that file.
PREDICTOR = """
import os, time
import torch

class Predictor:
    def __init__(self):
        self.gpu = os.environ["CUDA_VISIBLE_DEVICES"]
        while os.path.exists(f"slow-{self.gpu}"):
            open(f"building-{self.gpu}", "w")
            time.sleep(0.02)
        torch.launch("assert" if os.path.exists(f"broken-{self.gpu}") else "load")

    def health(self):
        torch.launch("assert" if os.path.exists("ill") else "look")

    def predict(self, params):
        if "sleep" in params:
            open(f"asleep-{os.getpid()}", "w")
            time.sleep(float(params["sleep"]))
        if params.get("gpu", self.gpu) == self.gpu:
            torch.launch(params.get("kernel", "add"))
        return {"pid": os.getpid(), "gpu": self.gpu}
"""
# As in the compute mode EXCLUSIVE_PROCESS: a GPU takes no second process.
EXCLUSIVE = """
import fcntl, os
import torch

class Predictor:
    def __init__(self):
        self.context = open("context-" + os.environ["CUDA_VISIBLE_DEVICES"], "w")
        try:
            fcntl.flock(self.context, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = "CUDA-capable device(s) is/are busy or unavailable"
            raise torch.AcceleratorError(46, message) from None

    def predict(self):
        return {"pid": os.getpid()}
"""
# What torch says where CUDA finds none of the GPUs that it may see: one has fallen off the bus.
ABSENT = """
import os

class Predictor:
    def __init__(self):
        if os.path.exists("absent-" + os.environ["CUDA_VISIBLE_DEVICES"]):
            raise RuntimeError("No CUDA GPUs are available")

    def predict(self):
        return {"gpu": os.environ["CUDA_VISIBLE_DEVICES"]}
"""
AT_IMPORT = """
if os.path.exists("broken-" + os.environ["CUDA_VISIBLE_DEVICES"]):
    torch.launch("assert")
"""
AS_A_SCRIPT = """
if __name__ == "__main__":
    import openbayes_serving as serv
    serv.run(Predictor)
"""
LOST = {"error": "this worker's GPU has failed; try again"}

Start = Callable[..., Server]


@pytest.fixture
def start(serve: Serve, model: Path) -> Start:
    """Start the predictor above on stubs of GPUs."""
    (model / "torch.py").write_text(TORCH)

    def start_with(gpus: str, *argv: str, source: str = PREDICTOR) -> Server:
        (model / "predictor.py").write_text(source)
        control = ("--control-socket", str(model.parent / "control"))
        environ = {"CUDA_VISIBLE_DEVICES": gpus}
        return serve("--admin-bind", "127.0.0.1:0", *control, *argv, str(model), environ=environ)

    return start_with


def admin(server: Server, path: str = "/healthz") -> tuple[int, Any]:
    reply = request(server.admin_port, "GET", path)
    return reply.status, json.loads(reply.body)


def obworker(model: Path, *argv: str) -> str:
    """Return what a command for the running obworker prints."""
    program = command(*argv, "--control-socket", str(model.parent / "control"))
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    return ended.stdout


def fail(server: Server, gpu: str) -> Reply:
    """Have a kernel fail on a GPU, whichever worker has it; return the answer to that."""

    def failed() -> Reply | None:
        reply = server.request("POST", f"/?kernel=assert&gpu={gpu}")
        return reply if reply.status == 503 else None

    return eventually(failed, 20, f"a failure of gpu {gpu}")


def pid_in(server: Server, slot: int) -> int | None:
    worker = server.workers().get(slot)
    return None if worker is None else worker.pid


def fail_into_quarantine(server: Server, gpu: str) -> None:
    for _ in range(3):
        assert json.loads(fail(server, gpu).body) == LOST
    server.wait_for_log(rf"gpu {gpu} is in quarantine: it failed 3 times in 10 minutes")


def test_a_worker_whose_gpu_is_lost_is_replaced_on_the_same_gpu(start: Start) -> None:
    server = start("4,6").wait_until_ready(2)
    old = pid_in(server, 1)
    reply = fail(server, "6")
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.body) == LOST
    error = "CUDA error: device-side assert triggered"
    server.wait_for_log(rf"worker 1 \(pid {old}\): {error}; replacing it when it has gone")
    server.wait_for_log(rf"{error}, and exited with code 5 after .* of service; replacing it")
    server.wait_until_ready(3)
    assert pid_in(server, 1) not in (None, old)
    slots = admin(server)[1]["slots"]
    assert [(slot["device"], slot["restarts"]) for slot in slots] == [("gpu 4", 0), ("gpu 6", 1)]
    assert error in slots[1]["last_exit"]["text"]


def test_a_worker_whose_gpu_is_lost_returns_nothing_that_is_still_in_it(
    start: Start, model: Path
) -> None:
    server = start("0", "--threads", "2").wait_until_ready()
    with ThreadPoolExecutor() as threads:
        sleeping = threads.submit(server.request, "POST", "/?sleep=20")
        eventually(lambda: list(model.glob("asleep-*")))
        fail(server, "0")
        reply = sleeping.result(5)
    assert (reply.status, json.loads(reply.body)) == (503, LOST)
    assert reply.headers["retry-after"] == "1"
    server.wait_until_ready(2)
    assert server.request().status == 200


def test_a_request_that_waits_goes_to_another_worker(start: Start, model: Path) -> None:
    server = start("0,1").wait_until_ready(2)
    with ThreadPoolExecutor() as threads:
        sleeping = [threads.submit(server.request, "POST", "/?sleep=1") for _ in range(2)]
        eventually(lambda: len(list(model.glob("asleep-*"))) == 2)
        failing = threads.submit(server.request, "POST", "/?kernel=assert&gpu=0")
        waiting = [threads.submit(server.request) for _ in range(6)]
        assert {call.result(20).status for call in sleeping} == {200}
        statuses = [failing.result(20).status, *(call.result(20).status for call in waiting)]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 6


def test_the_worker_of_a_gpu_that_failed_takes_no_other_request(start: Start) -> None:
    server = start("0").wait_until_ready()
    fail(server, "0")
    eventually(lambda: server.request().status == 200)
    assert server.log().count("predict raised AcceleratorError") == 1


def test_a_health_check_that_finds_the_gpu_lost_is_enough(start: Start, model: Path) -> None:
    server = start("0", "--health-interval", "0.1").wait_until_ready()
    (model / "ill").touch()
    server.wait_for_log("CUDA error: device-side assert triggered; replacing it when it has gone")
    (model / "ill").unlink()
    eventually(lambda: server.request().status == 200)
    assert "health check failed (2 of 3)" not in server.log()


def test_a_gpu_that_fails_again_and_again_is_left_alone_until_a_reload(
    start: Start, model: Path
) -> None:
    server = start("4,6", "--workers", "3").wait_until_ready(3)

    def failed_too_often() -> bool:  # how often that is depends on which of the two gets to know
        server.request("POST", "/?kernel=assert&gpu=4")
        return "in quarantine" in server.log()

    eventually(failed_too_often)
    line = server.wait_for_log("gpu 4 is in quarantine: .*")[0]
    assert line.endswith(
        "at last with CUDA error: device-side assert triggered; "
        "it is not used for 10 minutes, or until a reload (slots: 0, 2)"
    )

    def settled() -> bool:
        return [slot["state"] for slot in admin(server)[1]["slots"]] == [
            "retired",
            "idle",
            "retired",
        ]

    eventually(settled)
    status, report = admin(server)
    assert (status, report["status"], report["workers"]["wanted"]) == (200, "degraded", 3)
    held = report["slots"][0]["quarantine"]
    assert held["reason"] == "CUDA error: device-side assert triggered"
    assert 500 < held["left"] <= 600
    assert report["slots"][1]["quarantine"] is None
    assert re.search(
        r"^gpu 4 is in quarantine for 9m\d\ds more, or until a reload: CUDA error: device-side",
        obworker(model, "status"),
        re.MULTILINE,
    )
    assert json.loads(server.request().body)["gpu"] == "6"
    obworker(model, "reload", "--wait")
    assert admin(server)[1]["status"] == "ok"
    assert len(server.workers()) == 3


def test_a_fault_that_all_workers_of_a_gpu_notice_is_one_failure(start: Start, model: Path) -> None:
    server = start("4", "--workers", "3").wait_until_ready(3)
    with ThreadPoolExecutor(3) as pool:
        path = "/?sleep=1&kernel=assert"
        sent = [pool.submit(server.request, "POST", path) for _ in range(3)]
        eventually(lambda: len(list(model.glob("asleep-*"))) == 3, what="all three in predict")
        assert [reply.result().status for reply in sent] == [503, 503, 503]
    server.wait_until_ready(6)
    assert "quarantine" not in server.log()
    slots = admin(server)[1]["slots"]
    assert [(slot["state"], slot["causes"]) for slot in slots] == [("idle", {"device": 1})] * 3


def test_a_gpu_that_fails_under_a_worker_that_drains_has_failed(start: Start, model: Path) -> None:
    server = start("4").wait_until_ready()
    with ThreadPoolExecutor() as threads:
        failing = threads.submit(server.request, "POST", "/?sleep=2&kernel=assert")
        eventually(lambda: list(model.glob("asleep-*")))
        server.signal(signal.SIGHUP)
        server.wait_until_ready(2)
        assert failing.result(20).status == 503
    fail(server, "4")  # the worker that took over was there: it is the same failure
    for _ in range(2):
        fail(server, "4")
    server.wait_for_log("gpu 4 is in quarantine: it failed 3 times in 10 minutes")


def test_a_scaling_that_would_leave_a_gpu_in_quarantine_alone_is_refused(
    start: Start, model: Path
) -> None:
    server = start("4,6").wait_until_ready(2)
    fail_into_quarantine(server, "4")
    program = command("scale", "1", "--control-socket", str(model.parent / "control"))
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "with 1 nobody would serve: every GPU that is left is in quarantine" in ended.stderr
    server.signal(signal.SIGTTOU)
    server.wait_for_log("WARNING .* scaling +with 1 nobody would serve")
    assert json.loads(server.request().body)["gpu"] == "6"


def test_with_every_gpu_in_quarantine_the_service_is_not_ready(start: Start) -> None:
    server = start("4").wait_until_ready()
    fail_into_quarantine(server, "4")

    def is_unready() -> bool:
        return admin(server, "/readyz") == (
            503,
            {
                "status": "unready",
                "ready": False,
                "reason": "0 of 1 workers ready, 1 needed; in quarantine: gpu 4",
            },
        )

    eventually(is_unready)
    assert server.stop() == 0


def test_a_gpu_that_is_broken_from_the_start_keeps_no_other_from_serving(
    start: Start, model: Path
) -> None:
    (model / "broken-4").touch()
    server = start("4,6").wait_until_ready()
    server.wait_for_log(r"gpu 4 is in quarantine: .* \(slots: 0\)")
    assert json.loads(server.request().body)["gpu"] == "6"
    assert "exited with code" not in server.log()


def test_a_gpu_that_is_not_there_keeps_no_other_from_serving(start: Start, model: Path) -> None:
    (model / "absent-4").touch()
    server = start("4,6", source=ABSENT).wait_until_ready()
    server.wait_for_log(r"gpu 4 is in quarantine: .*No CUDA GPUs are available.* \(slots: 0\)")
    obworker(model, "reload", "--wait")
    assert json.loads(server.request().body)["gpu"] == "6"


def test_an_import_that_finds_its_gpu_broken_counts_as_well(start: Start, model: Path) -> None:
    (model / "broken-4").touch()
    server = start("4,6", "--preload", "off", source=PREDICTOR + AT_IMPORT).wait_until_ready()
    server.wait_for_log(r"gpu 4 is in quarantine: .* \(slots: 0\)")
    assert json.loads(server.request().body)["gpu"] == "6"


def test_a_start_with_broken_gpus_alone_fails_with_a_code_of_its_own(
    start: Start, model: Path
) -> None:
    for gpu in "46":
        (model / f"broken-{gpu}").touch()
    server = start("4,6")
    assert server.wait(30) == 5
    assert "error: no worker became ready: every GPU is in quarantine" in server.log()


def reload_in_vain(model: Path) -> str:
    """Have a reload fail; return why it says it did."""
    program = command("reload", "--wait", "--control-socket", str(model.parent / "control"))
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 4
    return ended.stderr


def test_a_gpu_that_fails_under_old_code_while_new_code_comes_is_accounted_for(
    start: Start, model: Path
) -> None:
    server = start("4,6").wait_until_ready(2)
    old = pid_in(server, 1)
    (model / "slow-6").touch()
    server.signal(signal.SIGHUP)
    server.wait_until_ready(3)
    eventually((model / "building-6").exists, what="new code on gpu 6")
    fail(server, "6")
    server.wait_for_log(rf"worker 1 \(pid {old}\): CUDA error: device-side assert triggered")
    eventually(lambda: not psutil.pid_exists(old or 0))
    (model / "slow-6").unlink()
    server.wait_for_log("reloaded +generation 2 ")
    assert "a bug in obworker" not in server.log()
    slots = admin(server)[1]["slots"]
    assert [(slot["state"], slot["causes"]) for slot in slots] == [
        ("idle", {}),
        ("idle", {"device": 1}),
    ]


def test_new_code_that_loses_a_gpu_on_which_the_old_serves_is_given_up(
    start: Start, model: Path
) -> None:
    server = start("4").wait_until_ready()
    (model / "broken-4").touch()
    assert "CUDA error: device-side assert triggered" in reload_in_vain(model)
    assert server.request().status == 200
    assert "quarantine" not in server.log()


@pytest.mark.parametrize("preload", ["auto", "off"])
def test_new_code_for_which_no_gpu_works_is_given_up(
    start: Start, model: Path, preload: str
) -> None:
    server = start("4", "--preload", preload).wait_until_ready()
    fail_into_quarantine(server, "4")
    eventually(lambda: not server.workers())
    (model / "broken-4").touch()
    assert "every GPU is in quarantine" in reload_in_vain(model)
    (model / "broken-4").unlink()
    obworker(model, "reload", "--wait")
    assert server.request().status == 200


def test_new_code_that_comes_when_every_gpu_is_in_quarantine_again_is_given_up(
    start: Start, model: Path
) -> None:
    slow = "\nwhile os.path.exists('importing'):\n    time.sleep(0.02)\n"
    server = start("4", source=PREDICTOR + slow).wait_until_ready()
    fail_into_quarantine(server, "4")
    for name in ("broken-4", "importing"):
        (model / name).touch()
    with ThreadPoolExecutor(1) as threads:
        reload = threads.submit(reload_in_vain, model)
        server.wait_for_log(r"(?s)gpu 4 is in quarantine: .* gpu 4 is in quarantine: ")
        (model / "importing").unlink()
        assert "every GPU is in quarantine" in reload.result()
    assert "generation 1 serves on" in server.log()


def test_on_a_gpu_that_takes_one_process_the_old_worker_goes_first(
    start: Start, model: Path
) -> None:
    server = start("4,6", source=EXCLUSIVE).wait_until_ready(2)
    old = {slot: worker.pid for slot, worker in server.workers().items()}
    obworker(model, "reload", "--wait")
    assert all(pid_in(server, slot) != pid for slot, pid in old.items())
    assert "there is no room beside the old worker" in server.log()
    assert "quarantine" not in server.log()


def test_want_of_memory_ends_nothing_and_is_counted(start: Start, model: Path) -> None:
    server = start("4").wait_until_ready()
    old = pid_in(server, 0)
    for _ in range(3):
        reply = server.request("POST", "/?kernel=large")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        answer = json.loads(reply.body)
        assert answer["error"] == "there is no memory for this at the moment; try again"
    reply = server.request()
    assert (reply.status, json.loads(reply.body)["pid"]) == (200, old)
    report = admin(server)[1]
    assert (report["status"], report["slots"][0]["no_memory"]) == ("ok", 3)
    assert "memory was short, times: 3 in slot 0\n" in obworker(model, "status")


def test_the_status_has_what_nvml_says_and_no_other_process_loads_it(
    start: Start, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = model.parent / "nvml"
    stub.mkdir()
    noted = f"\nimport os\nopen({str(stub)!r} + f'/loaded-by-{{os.getpid()}}', 'w')\n"
    source = (Path(__file__).parents[1] / "stub_nvml.py").read_text()
    (stub / "pynvml.py").write_text(source + noted)
    monkeypatch.setenv("PYTHONPATH", str(stub), prepend=":")
    server = start("0", "--workers", "2").wait_until_ready(2)
    (gpu,) = eventually(lambda: admin(server)[1]["gpus"])
    assert gpu == {
        "gpu": 0,
        "uuid": "GPU-aaaaaaaa-0000",
        "name": "NVIDIA X",
        "memory_used": 12 * 2**30,
        "memory_total": 16 * 2**30,
        "utilisation": 97,
        "temperature": 61,
        "slots": [0, 1],
    }
    assert "0    NVIDIA X  12.0 of 16.0 GiB  97%" in obworker(model, "status")
    (note,) = stub.glob("loaded-by-*")
    loader = int(note.name.removeprefix("loaded-by-"))
    assert loader not in {server.pid, *(worker.pid for worker in server.workers().values())}
    assert psutil.Process(loader).cmdline()[0].startswith("obworker: admin")


def test_without_nvml_nothing_is_said(start: Start, model: Path) -> None:
    server = start("0").wait_until_ready()
    assert admin(server)[1]["gpus"] == []
    assert "nvml" not in server.log().lower()


def test_without_a_supervisor_a_lost_gpu_is_said_and_nothing_ends(
    serve: Serve, model: Path
) -> None:
    (model / "torch.py").write_text(TORCH)
    script = model / "predictor.py"
    script.write_text(PREDICTOR + AS_A_SCRIPT)
    server = serve(script=script, environ={"CUDA_VISIBLE_DEVICES": "0"})
    for kernel in ("assert", "add"):
        reply = server.request("POST", f"/?kernel={kernel}")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert json.loads(reply.body)["error"] == "the GPU has failed; try again"
    assert "CUDA error: device-side assert triggered; what needs it fails" in server.log()
