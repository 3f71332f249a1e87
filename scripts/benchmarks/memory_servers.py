"""The servers that the benchmark `memory` compares, with the same weights and workers."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks import onnx_models
from benchmarks.servers import Server, obworker

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WORKERS = 4
WIDTH = 2048
LAYER_BYTES = WIDTH * WIDTH * 4
BODY = b"1"

# All servers call the session with this code, so that their answers agree to the last bit.
CALLED = f"""\
import hashlib

import numpy as np

def call(session, seed):
    x = np.linspace(-seed, seed, {WIDTH}, dtype=np.float32)[None]
    (values,) = session.run(None, {{"x": x}})
    return {{"values": values[0, :8].tolist(), "sha256": hashlib.sha256(values).hexdigest()}}
"""
PLAIN = """\
import json
import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
from called import call

def session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])

if __name__ == "__main__":
    print(json.dumps(call(session(), json.loads(sys.argv[1]))))
"""
PREDICTOR = """\
from called import call

class Predictor:
    def __init__(self, onnx):
        self.onnx = onnx

    def predict(self, json):
        return call(self.onnx, json)
"""
WSGI = """\
import json

import plain
from called import call

session = {session}

def app(environ, start_response):
    seed = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    body = json.dumps(call(session, seed)).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
"""
HOOKS = """\
def post_worker_init(worker):
    import served

    served.session = served.plain.session()
"""

# preload() returns plain weights, without a session. Rows of ones times these weights are rows of
# ones again.
WEIGHTS = """\
import {library} as library

def ones(rows):
    return library.ones((rows, {width}), dtype=library.float32)

class Predictor:
    @classmethod
    def preload(cls):
        return [ones({width}) / {width} for _ in range({layers})]

    def __init__(self, preloaded):
        self.weights = preloaded

    def predict(self, json):
        x = ones(json)
        for weights in self.weights:
            x = x @ weights
        return [float(x.min()), float(x.max())]
"""
WEIGHTS_ANSWER = [1.0, 1.0]


def of_session(layers: int, *options: str) -> Server:
    """Return obworker with a predictor that asks for the session."""
    server = obworker(PREDICTOR, "--workers", str(WORKERS), *options)
    name = " ".join(("session", *options))
    return Server(name, server.package, server.argv, {**server.files, **_files(layers)})


def of_weights(layers: int) -> Server:
    """Return obworker with a predictor whose preload() makes tensors, or arrays without torch."""
    library = "torch" if find_spec("torch") else "numpy"
    predictor = WEIGHTS.format(library=library, width=WIDTH, layers=layers)
    server = obworker(predictor, "--workers", str(WORKERS))
    return Server(f"preload() of {library}", server.package, server.argv, server.files)


def gunicorn(layers: int) -> Server:
    """Return gunicorn with the application loaded before the fork, and a session in each worker."""
    name, loaded = "gunicorn --preload", WSGI.format(session="None")
    return _gunicorn(name, layers, {"served.py": loaded, "hooks.py": HOOKS})


def gunicorn_shared(layers: int) -> Server:
    """Return gunicorn with one session, which the application makes before the fork."""
    loaded = WSGI.format(session="plain.session()")
    return _gunicorn("gunicorn, one session", layers, {"served.py": loaded, "hooks.py": ""})


def _gunicorn(name: str, layers: int, files: Mapping[str, str]) -> Server:
    argv = (
        *("gunicorn", "--preload", "--workers", str(WORKERS), "--config", "hooks.py"),
        *("--bind", "127.0.0.1:{port}", "--log-level", "warning", "served:app"),
    )
    return Server(name, "gunicorn", argv, {**files, **_files(layers)})


def _files(layers: int) -> dict[str, str | bytes]:
    model = onnx_models.dense(WIDTH, layers)
    return {"model.onnx": model, "called.py": CALLED, "plain.py": PLAIN}


def expected(server: Server, directory: Path) -> object:
    """Return the right answer, computed by a session in a separate process."""
    if "model.onnx" not in server.files:
        return WEIGHTS_ANSWER
    command = [sys.executable, "plain.py", BODY.decode()]
    return json.loads(subprocess.check_output(command, cwd=directory))
