"""Every worker has its share of the cores, in whatever library, and its own cores where asked."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import Client, Outcome, in_parallel
from control_groups import with_quota
from harness import ROOT, Serve, Server, eventually

PREDICTOR = """
import os, sys, time
import numpy
from threadpoolctl import threadpool_info

def counts():
    return {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}

AT_IMPORT = counts()

class Predictor:
    def __init__(self, config):
        import torch
        self.threads = config.threads
        self.at_init = {"torch": torch.threads, "cores": sorted(os.sched_getaffinity(0))}

    def predict(self):
        time.sleep(0.05)
        return {
            "slot": int(os.environ["OBWORKER_SLOT"]),
            "pid": os.getpid(),
            "threads": self.threads,
            "at_import": AT_IMPORT,
            "pools": counts(),
            "variable": os.environ["OMP_NUM_THREADS"],
            "waits": os.environ.get("OMP_WAIT_POLICY"),
            "cores": sorted(os.sched_getaffinity(0)),
            **self.at_init,
        }
"""
# It does what torch does: reads the variable when it is loaded, and can be told later.
TORCH = """
import os

threads = int(os.environ["OMP_NUM_THREADS"])

def set_num_threads(count):
    global threads
    threads = count
"""
LOADED_EARLY = "import torch\n"

# The master of a machine with other cores than this one; a quota is real.
MACHINE = """
from obworker import cores
cores.available = lambda: cores.Cores(frozenset(range({count})), {quota})
"""

OURS = sorted(os.sched_getaffinity(0))
Machine = Callable[..., dict[str, str]]
Answers = dict[int, dict[str, Any]]


@pytest.fixture
def model(model: Path) -> Path:
    (model / "predictor.py").write_text(PREDICTOR)
    (model / "torch.py").write_text(TORCH)
    return model


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return the environment of a server that believes it has so many cores."""

    def believe(count: int, quota: str = "None") -> dict[str, str]:
        (tmp_path / "sitecustomize.py").write_text(MACHINE.format(count=count, quota=quota))
        return {"PYTHONPATH": str(tmp_path)}

    return believe


def ask(server: Server, slots: int) -> Answers:
    """Ask until every worker has answered; return what each says."""
    answers: Answers = {}
    port = server.port

    def all_have_answered() -> bool:
        calls = [lambda: Client(port, keep=False).post()] * (2 * slots)
        for result in in_parallel([*calls]):
            assert result.outcome is Outcome.ANSWERED, result
            answers[result.json["slot"]] = result.json
        return len(answers) == slots

    eventually(all_have_answered, 30, "an answer of every worker")
    return answers


def has_threads(answer: dict[str, Any], count: int) -> bool:
    """Whether a worker has been told everywhere of the same number."""
    everywhere = {answer["threads"], int(answer["variable"]), answer["torch"]}
    return everywhere | set(answer["pools"].values()) == {count}


def test_four_workers_with_a_quota_of_two_cores_have_a_thread_each(
    serve: Serve, model: Path, machine: Machine
) -> None:
    with with_quota(2) as group:
        if group is None:
            pytest.skip("no cgroup with a quota can be made here")
        quota = "cores.least_quota(cores.Path('/'))"
        environ, under = machine(64, quota=quota), group.enter()
        server = serve("--workers", "4", str(model), environ=environ, under=under)
        answers = ask(server.wait_until_ready(4), 4)
        assert all(has_threads(answer, 1) for answer in answers.values()), answers
        assert {answer["waits"] for answer in answers.values()} == {"PASSIVE"}
        assert "threads    1 each: 4 workers on 2.0 cores (cgroup quota)\n" in server.log()
        assert server.stop() == 0


@pytest.mark.parametrize("preload", ["auto", "off"])
@pytest.mark.parametrize("early", [True, False], ids=["torch at import", "torch later"])
def test_four_workers_on_eight_cores_have_two_threads_each(
    serve: Serve,
    model: Path,
    machine: Machine,
    preload: str,
    early: bool,
) -> None:
    (model / "predictor.py").write_text((LOADED_EARLY if early else "") + PREDICTOR)
    server = serve("--workers", "4", "--preload", preload, str(model), environ=machine(8))
    answers = ask(server.wait_until_ready(4), 4)
    assert all(has_threads(answer, 2) for answer in answers.values()), answers
    assert {answer["waits"] for answer in answers.values()} == {None}
    if preload == "auto":
        assert all(set(answer["at_import"].values()) == {1} for answer in answers.values())
    assert "threads    2 each: 4 workers on 8 cores\n" in server.log()


def test_what_the_user_has_set_stands(serve: Serve, model: Path, machine: Machine) -> None:
    environ = machine(8) | {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1"}
    server = serve("--workers", "4", str(model), environ=environ).wait_until_ready(4)
    for answer in ask(server, 4).values():
        assert (answer["threads"], answer["torch"], answer["variable"]) == (3, 3, "3")
        assert answer["pools"]["openblas"] == 1
        assert answer["waits"] == "PASSIVE"
    assert "threads    3 each by OMP_NUM_THREADS: 4 workers on 8 cores\n" in server.log()


def test_workers_that_come_after_a_scaling_have_their_share_of_then(
    serve: Serve, model: Path, machine: Machine
) -> None:
    server = serve("--workers", "1", str(model), environ=machine(4)).wait_until_ready()
    server.signal(signal.SIGTTIN)
    server.wait_until_ready(2)
    answers = ask(server, 2)
    assert has_threads(answers[0], 4)
    assert has_threads(answers[1], 2)
    assert "threads    2 each: 2 workers on 4 cores\n" in server.log()
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloaded   generation 2")
    assert all(has_threads(answer, 2) for answer in ask(server, 2).values())


def test_a_process_without_a_supervisor_has_all_cores(serve: Serve, model: Path) -> None:
    source = PREDICTOR + "\nimport obworker\nobworker.run(Predictor)\n"
    (model / "predictor.py").write_text(source)
    environ = {"OMP_NUM_THREADS": "3", "OBWORKER_SLOT": "0"}
    server = serve(script=model / "predictor.py", environ=environ)
    assert ask(server, 1)[0]["threads"] == 3


@pytest.mark.parametrize("preload", ["auto", "off"])
def test_each_worker_has_cores_of_its_own_and_so_has_its_successor(
    serve: Serve, model: Path, preload: str
) -> None:
    if len(OURS) < 2:
        pytest.skip("there is one core")
    argv = ("--workers", "2", "--cpu-affinity", "auto", "--preload", preload)
    server = serve(*argv, str(model)).wait_until_ready(2)
    before = ask(server, 2)
    assert not set(before[0]["cores"]) & set(before[1]["cores"])
    assert sorted(before[0]["cores"] + before[1]["cores"]) == OURS
    server.wait_for_log(r"affinity   each worker on cores of its own: \S+ \S+\n")
    server.workers()[0].kill()
    server.wait_until_ready(3)
    after = ask(server, 2)
    assert after[0]["pid"] != before[0]["pid"]
    assert [after[slot]["cores"] for slot in (0, 1)] == [before[slot]["cores"] for slot in (0, 1)]


def test_more_workers_than_cores_share_them_evenly_and_the_log_says_so(
    serve: Serve, model: Path
) -> None:
    first, workers = f"{OURS[0]}", 3
    argv = ("--workers", f"{workers}", "--cpu-affinity", "auto", str(model))
    server = serve(*argv, under=("taskset", "-c", first)).wait_until_ready(workers)
    answers = ask(server, workers)
    assert {tuple(answer["cores"]) for answer in answers.values()} == {(OURS[0],)}
    server.wait_for_log(f"more workers than sets of cores, so up to 3 share one: {first}\n")


def test_a_slot_that_is_added_shares_the_cores_of_another(serve: Serve, model: Path) -> None:
    argv = ("--workers", "2", "--cpu-affinity", "auto", str(model))
    server = serve(*argv).wait_until_ready(2)
    server.signal(signal.SIGTTIN)
    answers = ask(server.wait_until_ready(3), 3)
    assert answers[2]["cores"] == answers[0]["cores"]
    server.wait_for_log("more workers than sets of cores, so up to 2 share one: ")


def test_without_the_option_a_worker_may_use_all_cores(serve: Serve, model: Path) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    assert {tuple(answer["cores"]) for answer in ask(server, 2).values()} == {tuple(OURS)}
    assert "affinity" not in server.log()


ONNX = """
class Predictor:
    def __init__(self, onnx, config):
        options = onnx.get_session_options()
        self.threads = config.threads, options.intra_op_num_threads
        try:
            self.spins = options.get_session_config_entry("session.intra_op.allow_spinning") != "0"
        except RuntimeError:  # it was left as it is
            self.spins = True

    def predict(self):
        return [*self.threads, self.spins]
"""


@pytest.mark.parametrize(("count", "spins"), [(8, True), (4, False)])
def test_threads_of_the_session_spin_only_where_there_are_cores_for_them(
    serve: Serve, model: Path, machine: Machine, count: int, spins: bool
) -> None:
    (model / "predictor.py").write_text(ONNX)
    shutil.copy(next((ROOT / "examples" / "digits").glob("*.onnx")), model)
    argv = ("--workers", "4", "--onnx-threads", "2", str(model))
    server = serve(*argv, environ=machine(count)).wait_until_ready(4)
    assert Client(server.port, keep=False).post().json == [count // 4, 2, spins]
