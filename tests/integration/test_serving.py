"""A model directory is served by the processes that the design draws."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from harness import Serve, eventually

PREDICTOR = """
class Predictor:
    def predict(self, json):
        return {"got": json}
"""


BUSY = """
import pathlib
import threading


class Predictor:
    def predict(self, params):
        pathlib.Path(params["began"]).touch()
        threading.Event().wait()
"""


FAILING = """
class Predictor:
    def predict(self):
        raise ValueError("secret")
"""

RUN = """

if __name__ == "__main__":
    import obworker

    obworker.run(Predictor)
"""


def test_a_posted_json_is_answered(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    server = serve(str(model))
    reply = server.request(body=b'{"a": 1}', headers={"Content-Type": "application/json"})
    assert (reply.status, reply.body) == (200, b'{"got":{"a":1}}')
    assert server.stop() == 0


def test_with_few_descriptors_it_serves_one_after_the_other(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    few = ("bash", "-c", 'ulimit -n 64; exec "$@"', "bash")
    server = serve(str(model), under=few)
    for _ in range(2):
        reply = server.request(body=b"1", headers={"Content-Type": "application/json"}, timeout=5)
        assert reply.body == b'{"got":1}'
    assert server.stop() == 0


@pytest.mark.parametrize("file", ["predictor.py", "start.sh"])
def test_the_path_of_a_model_need_not_be_text(serve: Serve, tmp_path: Path, file: str) -> None:
    model = Path(os.fsdecode(bytes(tmp_path) + b"/\xff \"%s'"))
    model.mkdir()
    script = f"exec {sys.executable} -m http.server --bind 127.0.0.1 $PORT"
    (model / file).write_text(script if file == "start.sh" else PREDICTOR)
    server = serve(str(model))
    assert server.request("GET").status == 200
    server.stop()


@pytest.mark.parametrize("as_script", [False, True])
def test_it_says_that_it_is_there_while_predict_is_busy(
    serve: Serve, model: Path, tmp_path: Path, *, as_script: bool
) -> None:
    script = model / "predictor.py"
    script.write_text(BUSY + RUN)
    server = serve(script=script) if as_script else serve(str(model))
    began = tmp_path / "began"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"POST /?began={began} HTTP/1.0\r\n\r\n".encode())
        eventually(began.exists)
        assert server.request("GET", timeout=5).status == 200
        assert server.request("GET", "/favicon.ico", timeout=5).status == 404


@pytest.mark.parametrize("as_script", [False, True])
def test_no_client_sees_a_traceback_that_it_is_not_to_see(
    serve: Serve, model: Path, *, as_script: bool
) -> None:
    script = model / "predictor.py"
    script.write_text(FAILING + RUN)
    hidden = ("--tracebacks", "off")
    server = serve(*hidden, script=script) if as_script else serve(*hidden, str(model))
    assert server.request().body == b'{"error":"Internal Server Error"}'
    assert "ValueError: secret" in server.log()


def test_a_directory_may_have_a_name_that_is_no_utf_8(serve: Serve, model: Path) -> None:
    directory = model / "\udcff"
    directory.mkdir()
    (directory / "predictor.py").write_text(PREDICTOR)
    server = serve(str(directory))
    reply = server.request(body=b"1", headers={"Content-Type": "application/json"})
    assert reply.body == b'{"got":1}'
    assert server.stop() == 0


TEE = """
import sys


class Tee:
    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        self.stream.write(text)

    def flush(self):
        self.stream.flush()


sys.stdout, sys.stderr = Tee(sys.stdout), Tee(sys.stderr)
"""


@pytest.mark.parametrize("argv", [(), ("--workers", "2")])
def test_a_script_may_put_streams_of_its_own_in_the_place_of_the_standard_ones(
    serve: Serve, model: Path, argv: tuple[str, ...]
) -> None:
    script = model / "predictor.py"
    script.write_text(TEE + FAILING + RUN)
    server = serve(*argv, script=script)
    assert server.request().status == 500
    assert "ValueError: secret" in server.log()


def test_a_mistake_is_told_whatever_a_script_has_made_of_standard_error(
    serve: Serve, model: Path
) -> None:
    script = model / "predictor.py"
    script.write_text("import io, sys\nsys.stderr = io.StringIO()\n" + PREDICTOR + RUN)
    server = serve("--workers", "two", script=script)
    assert server.process.wait(30) == 2
    assert "--workers: 'two' is not a whole number" in server.log()
