"""What `__init__` may ask for."""

from __future__ import annotations

import string
from collections.abc import Iterator

from contract.rows import JSON, Case, Model, to_json

# an ONNX model: y = Identity(x), float32 of shape [2]: IR version 8, opset 13
IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020802"
    "620f0a0179120a0a08080112040a0208024202100d"
)
ABOUT_INIT = """
class Predictor:
    def __init__($parameters):
        self.seen = {name: value for name, value in locals().items() if name != "self"}

    def predict(self):
        shown = {}
        for name, value in self.seen.items():
            known = name in ("onnx", "config")
            shown[name] = type(value).__name__ if known else value
        return dict(sorted(shown.items()))
"""
INIT = {
    # parameters, and what `__init__` finds in them
    "init-onnx": ("self, onnx", {"onnx": "InferenceSession"}),
    "init-config": ("self, config", {"config": "Config"}),
    "init-both": (
        "self, onnx, config, /",
        {"config": "Config", "onnx": "InferenceSession"},
    ),
    "init-extras": (
        "self, config: list, threshold=0.5, *args, onnx: 'Undefined' = 1, scale: int = 2, **kwargs",
        {
            "args": [],
            "config": "Config",
            "kwargs": {},
            "onnx": "InferenceSession",
            "scale": 2,
            "threshold": 0.5,
        },
    ),
    "init-defaults": ("self, path='x', *, device='cpu'", {"device": "cpu", "path": "x"}),
}
ONNX_RUN = """
import numpy as np

class Predictor:
    def __init__(self, onnx):
        self.onnx = onnx

    def predict(self, json):
        return self.onnx.run(None, {"x": np.array(json, dtype=np.float32)})
"""


def about_init(parameters: str) -> str:
    """Return a predictor.py whose `__init__` has these parameters and whose predict shows them."""
    return string.Template(ABOUT_INIT).substitute(parameters=parameters)


def init_cases() -> Iterator[Case]:
    for name, (parameters, seen) in INIT.items():
        files: dict[str, str | bytes] = {"predictor.py": about_init(parameters)}
        if "onnx" in parameters:
            files["net.onnx"] = IDENTITY
        yield Case(name, Model(name, files), content_type=JSON, body=to_json(seen))
    models = {"a.onnx": b"not a model", "b.onnx": IDENTITY, "sub/c.onnx": IDENTITY}
    for name, model_path in {"file": "b.onnx", "directory": "sub"}.items():
        yield Case(
            f"model-path-{name}",
            Model(
                f"model-path-{name}", {"predictor.py": ONNX_RUN, **models}, model_path=model_path
            ),
            content_type=JSON,
            body=b"[[1.0,2.5]]",
            headers={"Content-Type": JSON},
            content=b"[1, 2.5]",
        )
