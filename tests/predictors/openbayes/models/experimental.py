# ruff: noqa: PTH123  # as people write them
"""What YOLO repositories call this file is about as much."""

import json


class Linear:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, data):
        return [sum(w * x for w, x in zip(row, data, strict=True)) for row in self.weights]

    def predict(self, data):
        raise AssertionError("this is not the class to serve")


def attempt_load(path):
    with open(path) as f:
        return Linear(json.load(f))
