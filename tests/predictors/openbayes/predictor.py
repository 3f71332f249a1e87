# ruff: noqa: I001, PTH123  # as people write them
"""A predictor as people write them for openbayes-serving: it knows nothing of obworker."""

import os
import threading

import openbayes_serving as serv

from models.experimental import attempt_load


class PythonPredictor:
    def __init__(self):
        with open("labels.txt") as f:
            self.labels = f.read().splitlines()
        self.model = attempt_load("weights.json")

    def predict(self, json, params):
        if params.get("who"):
            return [os.getpid(), threading.current_thread() is threading.main_thread()]
        scores = self.model(json["data"])
        best = max(range(len(scores)), key=scores.__getitem__)
        serv.emit_event("input", json)
        serv.emit_event("image", b"\x89PNG")
        serv.emit_event("label", self.labels[best])
        serv.emit_event("score", scores[best])
        serv.emit_event("given", "x", id=7)
        return {"label": self.labels[best], "score": scores[best]}


if __name__ == "__main__":
    serv.run(PythonPredictor)
