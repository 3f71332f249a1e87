"""Keeps a GPU busy, and makes a kernel fail on it when asked to."""

import os

import torch

SIZE, LAYERS, BATCH = 2048, 8, 64


class Predictor:
    def __init__(self):
        self.layers = [torch.nn.Linear(SIZE, SIZE, device="cuda") for _ in range(LAYERS)]
        self.input = torch.randn(BATCH, SIZE, device="cuda")

    def predict(self, params):
        if "fail" in params:
            self.fail()
        return {"pid": os.getpid(), "slot": os.environ["OBWORKER_SLOT"], "mean": self.forward()}

    def forward(self):
        value = self.input
        with torch.inference_mode():
            for layer in self.layers:
                value = layer(value)
        return float(value.mean())  # waits for the GPU

    def fail(self):
        """Read past the end of a tensor: a device-side assert, after which the context is dead."""
        torch.zeros(1, device="cuda")[torch.tensor([5], device="cuda")]
        torch.cuda.synchronize()
