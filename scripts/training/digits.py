"""Train the model of examples/digits and draw the images it is shown and tested with.

Run it by scripts/train_digits, which makes the virtual environment it needs.
The training data is scikit-learn's own: 1797 images of 8 x 8 pixels, values 0 to 16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "digits"
IMAGES = ROOT / "tests" / "models" / "digits_images"

SEED = 0
SAMPLE_DIGIT = 7
MIN_ACCURACY = 0.95
# What onnxruntime 1.16, the oldest that obworker supports, can still read.
OPSETS = {"": 17, "ai.onnx.ml": 3}

sys.path.insert(0, str(EXAMPLE))
from predictor import Predictor  # noqa: E402  (the example is no package)


def main() -> None:
    digits = load_digits()
    train_x, held_x, train_y, held_y = train_test_split(
        digits.data, digits.target, test_size=0.2, random_state=SEED, stratify=digits.target
    )
    model = make_pipeline(
        StandardScaler(), MLPClassifier([64], alpha=0.01, max_iter=400, random_state=SEED)
    )
    model.fit(train_x, train_y)
    session = export(model, EXAMPLE / "digits.onnx")

    predicted = session.run(["label"], {"pixels": held_x.astype(np.float32)})[0]
    accuracy = float((predicted == held_y).mean())
    print(f"held-out accuracy: {accuracy:.4f} ({len(held_y)} images)")
    if accuracy < MIN_ACCURACY:
        sys.exit(f"that is below {MIN_ACCURACY}")

    # The first held-out image of each digit is a test's; the sample is the second of its digit.
    for digit in range(10):
        draw(held_x[held_y == digit][0], IMAGES / f"{digit}.png")
    draw(held_x[held_y == SAMPLE_DIGIT][1], EXAMPLE / "sample.png")
    check(Predictor(session))


def export(model: Pipeline, path: Path) -> onnxruntime.InferenceSession:
    graph = to_onnx(
        model,
        initial_types=[("pixels", FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=OPSETS,
    )
    path.write_bytes(graph.SerializeToString())
    return onnxruntime.InferenceSession(path)


def draw(pixels: np.ndarray, path: Path) -> None:
    """Save an 8 x 8 image at eight times the size, so that a person sees something."""
    grey = np.rint(pixels.reshape(8, 8) * (255 / 16)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).resize((64, 64), Image.Resampling.NEAREST).save(path)


def check(predictor: Predictor) -> None:
    """Every image drawn is read rightly by the example's own predictor."""
    expected = {IMAGES / f"{digit}.png": digit for digit in range(10)}
    expected[EXAMPLE / "sample.png"] = SAMPLE_DIGIT
    for path, digit in expected.items():
        answer = predictor.predict(path.read_bytes())
        print(f"{path.relative_to(ROOT)}: {answer['digit']} ({max(answer['probabilities'])})")
        if answer["digit"] != digit:
            sys.exit(f"{path} shows a {digit}")


if __name__ == "__main__":
    main()
