"""The models of the benchmark `onnx`, each with its predictor, its files and a request's body."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import onnx_models

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
CHANNELS, SIZE, LAYERS = 64, 28, 24

IMAGE = f"""\
import numpy as np


class Predictor:
    def __init__(self, onnx):
        self.onnx = onnx

    def predict(self, data):
        image = np.frombuffer(data, np.uint8).reshape(1, {CHANNELS}, {SIZE}, {SIZE})
        (scores,) = self.onnx.run(None, {{"x": image.astype(np.float32) / 255}})
        return {{"best": int(scores.argmax())}}
"""

# The model without a server: calls predict as often as it is told to, and prints the CPU time.
LOOP = """\
import json
import os
import sys
import time

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
from predictor import Predictor

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
predict = Predictor(session).predict
with open("body", "rb") as file:
    body = file.read()

print(json.dumps(predict(body)), flush=True)
for line in sys.stdin:
    began = time.process_time()
    for _ in range(int(line)):
        predict(body)
    print(time.process_time() - began, flush=True)
"""


class Case(NamedTuple):
    """A predictor that asks for `data`, and model.onnx beside it."""

    name: str
    predictor: str
    files: Mapping[str, bytes]
    body: bytes


def cases() -> Iterator[Case]:
    """Yield the models, the quickest first."""
    digits = ROOT / "examples" / "digits"
    yield Case(
        "digits",
        (digits / "predictor.py").read_text(),
        {"model.onnx": (digits / "digits.onnx").read_bytes()},
        (digits / "sample.png").read_bytes(),
    )
    magika = _directory_of("magika")
    (model,) = (magika / "models").glob("*/model.onnx")
    beside = (model, model.with_name("config.min.json"))
    files = (*beside, magika / "config" / "content_types_kb.min.json")
    yield Case(
        "magika",
        (ROOT / "tests" / "models" / "magika" / "predictor.py").read_text(),
        {path.name: path.read_bytes() for path in files},
        Path(__file__).read_bytes(),
    )
    yield Case(
        "convolutions",
        IMAGE,
        {"model.onnx": onnx_models.convolutions(CHANNELS, SIZE, LAYERS)},
        bytes(range(256)) * (CHANNELS * SIZE * SIZE // 256),
    )


def _directory_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
