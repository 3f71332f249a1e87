"""The servers that the benchmark `batch` compares; all serve a model with a high cost per call."""

from __future__ import annotations

from benchmarks.servers import Server, obworker

CALL, ITEM = 0.020, 0.0002
"""The seconds that a call takes, and the seconds that each request in it adds."""
CALLS = "calls"
"""The file to which each call appends a byte."""

COST = f"""\
import os
import time

CALLS = os.open("{CALLS}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def compute(inputs):
    os.write(CALLS, b".")
    time.sleep({CALL} + {ITEM} * len(inputs))
    return [{{"y": x["x"]}} for x in inputs]
"""

PREDICTOR = (
    COST
    + """

class Predictor:
    def predict_batch(self, json):
        return compute(json)
"""
)

LITSERVE = (
    COST
    + """

import sys

import litserve


class Model(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request

    def predict(self, inputs):
        return compute(inputs)

    def encode_response(self, output):
        return output


if __name__ == "__main__":
    api = Model(max_batch_size=int(sys.argv[2]), batch_timeout=float(sys.argv[3]))
    server = litserve.LitServer(api, accelerator="cpu", track_requests=False)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
"""
)


def batching(size: int) -> Server:
    """Return obworker with batches of up to `size` requests."""
    return obworker(PREDICTOR, "--workers", "1", "--max-batch-size", str(size))


def litserve(size: int, timeout: float) -> Server:
    """Return LitServe with the same batches; it waits `timeout` seconds for a full one."""
    argv = ("python", "model.py", "{port}", str(size), str(timeout))
    return Server("litserve", "litserve", argv, {"model.py": LITSERVE}, path="/predict")
