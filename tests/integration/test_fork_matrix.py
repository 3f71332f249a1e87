"""What libraries do before a fork and after it: right answers, shared or not, and never a hang.

The rows are what was found to hang, to crash or to work where a process forks after it has used a
library. torch is not among the test requirements: its rows run where it is installed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from benchmarks import onnx_models
from clients import Client, Outcome
from harness import Serve, Server, eventually

PREDICTOR = """
import os

class Predictor:
    @classmethod
    def preload(cls):
        return os.getpid(), {preload}

    def __init__(self, preloaded):
        self.made_in, self.kept = preloaded

    def predict(self):
        kept = self.kept
        return {{"made_in": self.made_in, "served_by": os.getpid(), "result": {predict}}}
"""

ALONE = """
import json
from predictor import Predictor
print(json.dumps(Predictor(Predictor.preload()).predict()["result"]))
"""

# The numbers are small whole ones, so that every order of adding them up has the same result.
NUMPY = """
import numpy as np

matrix = np.arange(640_000).reshape(800, 800) % 5.0

def algebra():
    inverse = np.linalg.solve(np.eye(200) * 2, np.eye(200))
    singular = np.linalg.svd(np.eye(100) * 3)[1]
    return [float((matrix @ matrix).sum()), float(inverse.sum()), float(singular.sum().round())]
"""
TORCH = """
import torch
from threadpoolctl import threadpool_limits

matrix = (torch.arange(640_000).reshape(800, 800) % 5).float()

def product():
    return float(torch.mm(matrix, matrix).double().sum())

def elementwise():
    return float((matrix * 2 + 1).double().sum())

def convolution():
    return float(torch.conv2d(matrix[None, None], torch.ones(4, 1, 3, 3)).double().sum())

def gradient():
    weights = torch.ones(800, 800, requires_grad=True)
    (matrix @ weights).sum().backward()
    return float(weights.grad.double().sum())

def model():
    linear = torch.nn.Linear(800, 4, bias=False)
    torch.nn.init.ones_(linear.weight)
    return linear

def with_two_threads(work):
    with threadpool_limits(2, "openmp"):
        return work()

def set_two_threads():
    torch.set_num_threads(2)  # XNNPACK makes a pool of its own then
    return product()
"""
SKLEARN = """
import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

points = np.repeat(np.arange(8.0), 2000)[:, None] * np.ones(4)
labels = points[:, 0] > 3

def boosting():
    with threadpool_limits(2, "openmp"):
        model = HistGradientBoostingClassifier(max_iter=5).fit(points, labels)
        return int(model.predict(points).sum())

def clusters():
    with threadpool_limits(2, "openmp"):
        return float(KMeans(2, n_init=1, random_state=0).fit(points).cluster_centers_.sum())
"""
CV2 = """
import cv2
import numpy as np

image = np.full((2000, 2000, 3), 7, np.uint8)

def blur():
    return int(cv2.GaussianBlur(image, (31, 31), 0).sum())

def blur_with_two_threads():
    cv2.setNumThreads(2)
    return blur()
"""
ONNX = """
import numpy as np
import onnxruntime

def session(threads, operators=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, operators
    if operators > 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    return onnxruntime.InferenceSession("net.onnx", options, providers=["CPUExecutionProvider"])

def used(session):
    run(session)
    return session

def run(session):
    (values,) = session.run(None, {"x": np.ones((32, 256), np.float32)})
    return round(float(values.sum()))
"""
TELEMETRY = """
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "0"
# where one of these is set it sends none
for name in ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "JENKINS_URL", "BUILDKITE", "TRAVIS"):
    os.environ.pop(name, None)
"""
THREAD = """
import threading

def start_thread():
    threading.Thread(target=threading.Event().wait, name="ticker", daemon=True).start()
"""
NATIVE = r"after preload: \d native threads?( \(.+\))?"
# The last releases for Python 3.10: scikit-learn's brings a libgomp whose threads nobody can end
# (GCC 8 had no omp_pause_resource_all), and onnxruntime's has no telemetry.
IS_OLD = sys.version_info < (3, 11)
BOOSTED = NATIVE if IS_OLD else None
TELLING = None if IS_OLD else NATIVE.removeprefix("after preload: ")


class Row(NamedTuple):
    """What the mold does and keeps, and what a worker does, with what of the mold was kept.

    `unsafe` is what the log says of the mold where each worker has to do it all by itself.
    """

    library: str
    source: str
    preload: str
    predict: str
    unsafe: str | None = None


MATRIX = {
    "numpy was imported": Row("numpy", NUMPY, "None", "algebra()"),
    "numpy has computed": Row("numpy", NUMPY, "algebra()", "algebra()"),
    "torch was imported": Row("torch", TORCH, "None", "product()"),
    "torch has multiplied": Row("torch", TORCH, "with_two_threads(product)", "product()"),
    "torch has added": Row("torch", TORCH, "with_two_threads(elementwise)", "elementwise()"),
    "torch has convolved": Row("torch", TORCH, "with_two_threads(convolution)", "convolution()"),
    "torch was told of threads": Row("torch", TORCH, "set_two_threads()", "product()", NATIVE),
    "torch has differentiated": Row("torch", TORCH, "gradient()", "gradient()"),
    "torch has a model": Row("torch", TORCH, "model()", "float(kept(matrix).double().sum())"),
    "scikit-learn has boosted": Row("sklearn", SKLEARN, "boosting()", "boosting()", BOOSTED),
    "scikit-learn has clustered": Row("sklearn", SKLEARN, "clusters()", "clusters()", BOOSTED),
    "cv2 was imported": Row("cv2", CV2, "None", "blur()"),
    "cv2 has blurred": Row("cv2", CV2, "blur_with_two_threads()", "blur()", NATIVE),
    "onnxruntime was imported": Row("onnxruntime", ONNX, "None", "run(session(2))"),
    "onnxruntime sends telemetry": Row(
        "onnxruntime", TELEMETRY + ONNX, "None", "run(session(1))", TELLING
    ),
    "a session has 1 thread": Row("onnxruntime", ONNX, "session(1)", "run(kept)"),
    "a session with 1 thread has run": Row("onnxruntime", ONNX, "used(session(1))", "run(kept)"),
    "a session has 2 threads": Row("onnxruntime", ONNX, "session(2)", "run(kept)", NATIVE),
    "a session is parallel": Row("onnxruntime", ONNX, "session(1, 2)", "run(kept)", NATIVE),
    "a thread was started": Row(
        "threading", THREAD, "start_thread()", "7", "after preload: Python threads: ticker"
    ),
    "a thread was started by the import": Row(
        "threading", f"{THREAD}\nstart_thread()", "None", "7", "Python threads: ticker"
    ),
}


@pytest.mark.parametrize("name", MATRIX)
def test_workers_answer_right_after(name: str, model: Path, serve: Serve) -> None:
    row = MATRIX[name]
    if find_spec(row.library) is None:  # an import here would leave its threads in all tests
        pytest.skip(f"{row.library} is not installed")
    (model / "net.onnx").write_bytes(onnx_models.dense(width=256, layers=2))
    source = row.source + PREDICTOR.format(preload=row.preload, predict=row.predict)
    (model / "predictor.py").write_text(source)
    expected = result_alone(model)
    server = serve("--timeout", "20", str(model)).wait_until_ready()
    first = answer(server)
    kill_worker(server)
    second = answer(server)
    assert first["result"] == second["result"] == expected
    assert first["served_by"] != second["served_by"]
    check_choice(server.log(), [first, second], row.unsafe)


def result_alone(model: Path) -> object:
    """Return what the predictor says in a process that neither forks nor was forked."""
    environ = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=model,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def answer(server: Server) -> Any:
    result = Client(server.port, keep=False).post()
    assert result.outcome is Outcome.ANSWERED, result
    return result.json


def kill_worker(server: Server) -> None:
    worker = server.workers()[0]
    worker.send_signal(signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(worker.pid), what="end of the worker")
    server.wait_until_ready(2)


def check_choice(log: str, answers: list[Any], unsafe: str | None) -> None:
    """Look at where the preloaded was made, and at what is said of that."""
    if unsafe is None:
        assert len({answer["made_in"] for answer in answers}) == 1, answers
        assert "WARNING" not in log
        assert "preload    Predictor.preload(), shared by all workers\n" in log
    else:
        assert all(answer["made_in"] == answer["served_by"] for answer in answers), answers
        said = rf"WARNING \[\d+\] {unsafe}: each worker imports and preloads \S+ by itself"
        assert len(re.findall(said, log)) == log.count("WARNING") == 1
