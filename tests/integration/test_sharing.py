"""What was made before the fork is there once, for all workers and for those that come later."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from benchmarks import onnx_models
from clients import Client
from harness import Serve, Server, eventually

MIB = 1 << 20
WORKERS = 3
WEIGHTS = 48 * MIB

SESSION = """
import os
import numpy as np

class Predictor:
    def __init__(self, onnx):
        self.onnx = onnx

    def predict(self):
        (values,) = self.onnx.run(None, {"x": np.ones((1, 2048), np.float32)})
        return [os.getpid(), float(values.sum())]
"""
ARRAY = """
import os
import numpy as np

class Predictor:
    @classmethod
    def preload(cls):
        return np.ones(12 << 20, np.float32)

    def __init__(self, preloaded):
        self.weights = preloaded

    def predict(self):
        return [os.getpid(), float(self.weights.sum())]
"""
OBJECTS = """
import gc
import os

class Predictor:
    @classmethod
    def preload(cls):
        return [[number] for number in range(400_000)]  # gc tracks each of them: some 48 MiB

    def __init__(self, preloaded):
        self.lists = preloaded

    def predict(self):
        gc.collect()
        return [os.getpid(), len(self.lists)]
"""
COUNTING = """
import os
from pathlib import Path

class Predictor:
    @staticmethod
    def preload():
        with Path("preloads").open("a") as file:
            print(os.getpid(), file=file)
        return Path("weights").read_text()

    def __init__(self, preloaded):
        self.weights = preloaded

    def predict(self):
        return [os.getpid(), self.weights]
"""


def ask(server: Server) -> Any:
    return Client(server.port, keep=False).post().json


def ask_everyone(server: Server) -> list[Any]:
    """Return the answer of each worker."""
    answers: dict[int, Any] = {}

    def everyone_answered() -> bool:
        pid, answer = ask(server)
        answers[pid] = answer
        return len(answers) == WORKERS

    eventually(everyone_answered, what=f"answers of {WORKERS} workers")
    return list(answers.values())


def own_memory(server: Server) -> list[int]:
    """Return the bytes that each worker shares with nobody."""
    return [worker.memory_full_info().uss for worker in server.workers().values()]


@pytest.mark.parametrize("source", [SESSION, ARRAY, OBJECTS])
def test_no_worker_has_weights_of_its_own(source: str, model: Path, serve: Serve) -> None:
    (model / "net.onnx").write_bytes(onnx_models.dense(width=2048, layers=3))
    (model / "predictor.py").write_text(source)
    server = serve("--workers", str(WORKERS), str(model)).wait_until_ready(WORKERS)
    assert len(set(ask_everyone(server))) == 1
    assert max(own_memory(server)) < WEIGHTS / 2
    assert ", shared by all workers\n" in server.log()


@pytest.mark.parametrize(
    "options", [("--preload", "off"), ("--onnx-threads", "2")], ids=lambda options: options[0]
)
def test_each_worker_makes_a_session_that_cannot_be_shared(
    options: tuple[str, str], model: Path, serve: Serve
) -> None:
    (model / "net.onnx").write_bytes(onnx_models.dense(width=2048, layers=3))
    (model / "predictor.py").write_text(SESSION)
    server = serve("--workers", str(WORKERS), *options, str(model)).wait_until_ready(WORKERS)
    assert len(set(ask_everyone(server))) == 1
    assert min(own_memory(server)) > WEIGHTS
    assert "shared by all workers" not in server.log()


@pytest.mark.parametrize(("preload", "count"), [("on", 1), ("off", 3)])
def test_preload_runs_once_and_not_for_a_worker_that_comes_later(
    preload: str, count: int, model: Path, serve: Serve
) -> None:
    (model / "predictor.py").write_text(COUNTING)
    (model / "weights").write_text("first")
    server = serve("--workers", "2", "--preload", preload, str(model)).wait_until_ready(2)
    server.workers()[0].send_signal(signal.SIGKILL)
    server.wait_until_ready(3)
    assert ask(server)[1] == "first"
    makers = {int(line) for line in (model / "preloads").read_text().splitlines()}
    assert len(makers) == count
    is_mold = not makers & {worker.pid for worker in server.workers().values()}
    assert is_mold is (preload == "on")


THREAD = "__import__('threading').Thread(target=__import__('time').sleep, args=[600], daemon=True)"


def test_nothing_is_preloaded_in_vain(model: Path, serve: Serve) -> None:
    (model / "predictor.py").write_text(f"{THREAD}.start()\n{COUNTING}")
    (model / "weights").write_text("first")
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    makers = {int(line) for line in (model / "preloads").read_text().splitlines()}
    assert makers == {worker.pid for worker in server.workers().values()}


def test_who_says_so_gets_a_fork_all_the_same(model: Path, serve: Serve) -> None:
    source = COUNTING.replace("return Path", f"{THREAD}.start(); return Path")
    (model / "predictor.py").write_text(source)
    (model / "weights").write_text("first")
    server = serve("--workers", "2", "--preload", "on", str(model)).wait_until_ready(2)
    assert len((model / "preloads").read_text().splitlines()) == 1
    assert "preload    Predictor.preload(), shared by all workers\n" in server.log()


def test_a_reload_preloads_anew(model: Path, serve: Serve) -> None:
    (model / "predictor.py").write_text(COUNTING)
    (model / "weights").write_text("first")
    server = serve(str(model)).wait_until_ready()
    (model / "weights").write_text("second")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloaded ")
    assert ask(server)[1] == "second"


def test_a_preload_that_fails_in_a_reload_leaves_the_service_as_it_is(
    model: Path, serve: Serve
) -> None:
    (model / "predictor.py").write_text(COUNTING)
    (model / "weights").write_text("first")
    server = serve(str(model)).wait_until_ready()
    (model / "weights").unlink()
    server.signal(signal.SIGHUP)
    failed = server.wait_for_log(r"reload failed: (.+); generation 1 serves on")[1]
    assert re.match(r"predictor\.py:\d+: Predictor\.preload raised FileNotFoundError", failed)
    assert ask(server)[1] == "first"


def test_a_predictor_run_by_itself_is_preloaded(model: Path, serve: Serve) -> None:
    run = "if __name__ == '__main__':\n    import obworker\n    obworker.run(Predictor)\n"
    (model / "predictor.py").write_text(COUNTING + run)
    (model / "weights").write_text("first")
    server = serve(script=model / "predictor.py")
    assert ask(server) == [server.pid, "first"]
    assert "preload    Predictor.preload()\n" in server.log()


def test_a_preload_that_hangs_ends_with_the_load_timeout(model: Path, serve: Serve) -> None:
    source = COUNTING.replace("return Path", "import time; time.sleep(600); return Path")
    (model / "predictor.py").write_text(source)
    server = serve("--load-timeout", "1", str(model))
    assert server.wait() == 4
    assert "took longer than 1 s, see --load-timeout" in server.log()


def test_workers_draw_different_numbers(model: Path, serve: Serve) -> None:
    source = ARRAY.replace("import numpy as np", "import numpy as np\nimport numpy.random")
    source = source.replace("self.weights.sum()", "np.random.random()")
    (model / "predictor.py").write_text(source)
    server = serve("--workers", str(WORKERS), str(model)).wait_until_ready(WORKERS)
    assert len(set(ask_everyone(server))) == WORKERS


def test_flask_is_imported_before_the_fork(model: Path, serve: Serve) -> None:
    source = """
import sys
found = "flask" in sys.modules

class Predictor:
    @classmethod
    def preload(cls):
        return [found, "flask" in sys.modules]

    def __init__(self, preloaded):
        self.found = preloaded

    def predict(self, request):
        return self.found
"""
    (model / "predictor.py").write_text(source)
    assert ask(serve(str(model)).wait_until_ready(1)) == [False, True]
