"""Options that mean nothing to a model are said, and nothing is made of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import Serve

PREDICTOR = """
class Predictor:
    def predict(self):
        return 1

if __name__ == "__main__":
    import openbayes_serving as serv
    serv.run(Predictor)
"""
SAID = (
    "no effect  --onnx-threads: Predictor.__init__ asks for no onnx; "
    "--async-concurrency: Predictor.predict is not async def; "
    "--max-batch-size: Predictor has no predict_batch"
)


@pytest.fixture
def options(model: Path) -> tuple[str, ...]:
    """Give options in a file, and so of the environment and the command line."""
    (model / "predictor.py").write_text(PREDICTOR)
    (model / ".env").write_text("OBWORKER_ASYNC_CONCURRENCY=8\n")
    file = model.parent / "obworker.toml"
    file.write_text("max_batch_size = 8\nthreads = 2\n")
    return ("--config", str(file), "--onnx-threads", "1")


@pytest.mark.parametrize("preload", ["on", "off"])
def test_options_without_effect_are_one_line_of_the_report(
    serve: Serve, model: Path, options: tuple[str, ...], preload: str
) -> None:
    server = serve(*options, "--workers", "2", "--preload", preload, str(model))
    server.wait_until_ready(2)
    (line,) = [line for line in server.log().splitlines() if " WARNING " in line]
    assert line.endswith(SAID)
    assert server.stop() == 0


def test_so_they_are_without_a_supervisor(
    serve: Serve, model: Path, options: tuple[str, ...]
) -> None:
    server = serve(*options, script=model / "predictor.py")
    server.wait_for_log(re.escape(SAID))


def test_what_is_a_supervisors_is_nobodys_without_one(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    options = ("--preload", "off", "--graceful-timeout", "5", "--health-timeout", "1")
    server = serve(*options, "--timeout", "9", script=model / "predictor.py")
    server.wait_for_log(
        "no effect  --preload, --admin-bind, --health-timeout, --control-socket, "
        "--graceful-timeout: nothing supervises this process\n"
    )


def test_a_default_is_nobodys_mistake(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    server = serve(str(model)).wait_until_ready()
    assert "no effect" not in server.log()
