"""The onnx session is as the options say, however the predictor is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import onnx_models
from clients import Client
from harness import Serve, run_to_end

PREDICTOR = """
import obworker

class Predictor:
    def __init__(self, onnx):
        self.onnx = onnx

    def predict(self):
        options = self.onnx.get_session_options()
        return {
            "threads": options.intra_op_num_threads,
            "level": options.graph_optimization_level.name,
            "spins": options.get_session_config_entry("session.intra_op.allow_spinning"),
            "providers": self.onnx.get_providers(),
        }

if __name__ == "__main__":
    obworker.run(Predictor)
"""

OPTIONS = (
    *("--onnx-threads", "2", "--onnx-providers", "CPUExecutionProvider"),
    *("--onnx-option", "graph_optimization_level=enable_basic"),
    *("--onnx-option", "session.intra_op.allow_spinning=off"),
)
SESSION = {
    "threads": 2,
    "level": "ORT_ENABLE_BASIC",
    "spins": "0",
    "providers": ["CPUExecutionProvider"],
}


@pytest.fixture(autouse=True)
def files(model: Path) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    (model / "net.onnx").write_bytes(onnx_models.dense(width=4, layers=1))


@pytest.mark.parametrize("more", [("--workers", "2"), ("--preload", "off")])
def test_every_worker_has_the_session_that_was_asked_for(
    more: tuple[str, ...], model: Path, serve: Serve
) -> None:
    server = serve(*OPTIONS, *more, str(model)).wait_until_ready(2 if "2" in more else 1)
    answers = [Client(server.port, keep=False).post().json for _ in range(4)]
    assert answers == [SESSION] * 4
    report = "net.onnx: cpu, 2 threads, graph_optimization_level=enable_basic, session.intra_op.al"
    assert f"onnx       {report}" in server.log()


def test_so_has_a_predictor_that_is_run_by_itself(model: Path, serve: Serve) -> None:
    server = serve(*OPTIONS, script=model / "predictor.py")
    assert Client(server.port, keep=False).post().json == SESSION


def test_a_call_has_one_thread_unless_more_are_asked_for(model: Path, serve: Serve) -> None:
    serve(str(model)).wait_for_log(r"onnx       net\.onnx: cpu, 1 thread, shared by all workers\n")


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--onnx-providers", "tensorrt"), 4, "this onnxruntime has no 'tensorrt'; it has "),
        (("--onnx-option", "enable_mem_patern=0"), 2, "(did you mean 'enable_mem_pattern'?)"),
        (("--onnx-threads", "0"), 2, "--onnx-threads: '0' is not a whole number from 1 to 1024"),
    ],
)
def test_what_cannot_be_is_one_line(
    options: tuple[str, ...], code: int, complaint: str, model: Path
) -> None:
    ended = run_to_end("--port", "0", *options, str(model))
    assert ended.returncode == code
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("obworker: error: ")]
    assert complaint in line
    assert "Traceback" not in ended.stderr
