"""predictor.py counts with prometheus_client, and /metrics has the sum of all workers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from clients import Client, Outcome
from harness import Serve, eventually, request, run_to_end
from prometheus_client.parser import text_string_to_metric_families

PREDICTOR = """
from prometheus_client import Counter
answers = Counter("answers", "Answers", ["kind"])
class Predictor:
    def predict(self):
        answers.labels("cat").inc()
        return 1
"""


@pytest.fixture
def model(model: Path) -> Path:
    (model / "predictor.py").write_text(PREDICTOR)
    return model


def counted(port: int) -> dict[str, float]:
    page = request(port, "GET", "/metrics").body.decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name in ("answers_total", "obworker_ready")
    }


def test_they_add_up_over_workers_that_come_and_go(serve: Serve, model: Path) -> None:
    (model / ".env").write_text(f"PROMETHEUS_MULTIPROC_DIR={model / 'made' / 'by obworker'}\n")
    server = serve("--workers", "2", "--admin-bind", "127.0.0.1:0", str(model))
    server.wait_until_ready(2)

    def post() -> None:
        for _ in range(5):
            assert Client(server.port, keep=False).post().outcome is Outcome.ANSWERED

    post()
    assert counted(server.admin_port) == {"answers_total": 5, "obworker_ready": 1}
    for worker in server.workers().values():
        worker.kill()
    server.wait_until_ready(4)
    post()
    assert counted(server.admin_port)["answers_total"] == 10
    server.signal(signal.SIGHUP)
    server.wait_until_ready(6)
    post()
    eventually(lambda: len(server.workers()) == 2, 10, "the old workers to be gone")
    assert counted(server.admin_port)["answers_total"] == 15


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("{}/predictor.py", "cannot make {}/predictor.py: File exists"),
        ("metrics", "metrics is not an absolute path"),
    ],
)
def test_a_directory_that_cannot_be_made_is_named(model: Path, name: str, trouble: str) -> None:
    variables = {"PROMETHEUS_MULTIPROC_DIR": name.format(model)}
    ended = run_to_end("--port", "0", str(model), environ=variables)
    told = f"obworker: error: PROMETHEUS_MULTIPROC_DIR: {trouble.format(model)}\n"
    assert (ended.returncode, ended.stderr) == (2, told)
