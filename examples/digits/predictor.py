"""Recognise a handwritten digit: an image in the request's body, the digit in the answer."""

import io

import numpy as np
from PIL import Image
from werkzeug.exceptions import BadRequest

import openbayes_serving as serv

# Pillow has no common class for everything a damaged file makes it raise.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class Predictor:
    def __init__(self, onnx):
        self.onnx = onnx  # digits.onnx, found beside this file and loaded once

    def predict(self, data):
        labels, probabilities = self.onnx.run(None, {"pixels": to_pixels(data)})
        return {
            "digit": int(labels[0]),
            "probabilities": [round(float(p), 4) for p in probabilities[0]],
        }


def to_pixels(data):
    """The model's input: 8 x 8 grey values from 0 (background) to 16 (ink), one row."""
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]).convert("L")
    except UNREADABLE:
        raise BadRequest("the body must be a PNG or JPEG image") from None
    small = image.resize((8, 8), Image.Resampling.BOX)
    return (np.asarray(small, dtype=np.float32) * (16 / 255)).reshape(1, 64)


if __name__ == "__main__":
    serv.run(Predictor)
