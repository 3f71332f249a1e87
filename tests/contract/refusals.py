"""Models that cannot be served: with which exit code the start ends, and what it names."""

from __future__ import annotations

from contract.files import TWO
from contract.inits import about_init
from contract.rows import Model, Refusal, single

PREDICT_NAMES = "json, payload, data, params, args, headers, request"
ONNX_SOURCE = about_init("self, onnx")


def about_predict(parameters: str) -> str:
    return f"class Predictor:\n    def predict(self, {parameters}):\n        return 1\n"


REFUSALS = (
    Refusal(Model("no-predictor", {"model.pt": ""}), 4, ("no predictor.py", "model.pt")),
    Refusal(
        single("two-classes", TWO.replace("Predictor", "Another")),
        4,
        ("Other, Another", "--class"),
    ),
    Refusal(single("no-class", "class Net:\n    pass\n"), 4, ("no class with a predict", "Net")),
    Refusal(
        Model(
            "only-imported",
            {
                "predictor.py": "from base import Base\n",
                "base.py": about_predict("json").replace("Predictor", "Base"),
            },
        ),
        4,
        ("no class with a predict",),
    ),
    Refusal(
        single("class-unknown", TWO, class_name="Othr"),
        4,
        ("'Othr'", "'Other'", "Other, Predictor"),
    ),
    Refusal(
        single("init-unknown", about_init("self, onx")), 4, ("'onx'", "'onnx'", "onnx, config")
    ),
    Refusal(
        single("init-unknown-keyword", about_init("self, *, confg: int")),
        4,
        ("'confg'", "'config'", "onnx, config"),
    ),
    Refusal(single("predict-unknown", about_predict("jsn")), 4, ("'jsn'", "'json'", PREDICT_NAMES)),
    Refusal(
        single("predict-unknown-keyword", about_predict("json, *, heders")),
        4,
        ("'heders'", "'headers'", PREDICT_NAMES),
    ),
    Refusal(
        Model("onnx-none", {"predictor.py": ONNX_SOURCE, "weights.pt": ""}),
        4,
        ("no .onnx file", "weights.pt"),
    ),
    Refusal(
        Model("onnx-several", {"predictor.py": ONNX_SOURCE, "a.onnx": "", "b.onnx": ""}),
        4,
        ("a.onnx, b.onnx", "--model-path"),
    ),
    Refusal(
        single(
            "init-raises",
            """
class Predictor:
    def __init__(self):
        open("absent.txt")

    def predict(self):
        return 1
""",
        ),
        3,
        ("predictor.py:4", "absent.txt"),
    ),
)
