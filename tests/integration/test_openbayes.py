"""A predictor written for openbayes-serving runs unmodified, in every way it can be started."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import psutil
import pytest
from contract.failures import IN_PRODUCTION
from contract.inits import IDENTITY, ONNX_RUN
from contract.returned import PREDICTORS
from contract.rows import to_msgpack
from harness import Reply, Serve, Server, eventually

Start = Callable[..., Server]

JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/x-msgpack"}
CONTENT = {"data": [1, 2]}
ANSWER = '{"label":"狗","score":5.0}'.encode()
RECORDER = ("127.0.0.1", 6666)
RUN = """
if __name__ == "__main__":
    import openbayes_serving as serv
    serv.run({})
"""


def as_obworker(serve: Serve, directory: Path, *argv: str, **more: Any) -> Server:
    return serve(*argv, str(directory), **more)


def as_script(serve: Serve, directory: Path, *argv: str, **more: Any) -> Server:
    return serve(*argv, script=directory / "predictor.py", **more)


def as_supervised_script(serve: Serve, directory: Path, *argv: str, **more: Any) -> Server:
    return as_script(serve, directory, "--workers", "2", *argv, **more)


def in_production(serve: Serve, directory: Path, *argv: str, **more: Any) -> Server:
    return as_script(serve, directory, *argv, environ=IN_PRODUCTION, **more)


WAYS = [as_obworker, as_script, as_supervised_script, in_production]
every_way = pytest.mark.parametrize("start", WAYS, ids=lambda start: start.__name__)


@pytest.fixture
def openbayes(tmp_path: Path) -> Path:
    """Return a copy of the predictor: python leaves bytecode beside what a script imports."""
    return Path(shutil.copytree(PREDICTORS / "openbayes", tmp_path / "openbayes"))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    return directory


def predict(server: Server, **headers: str) -> Reply:
    return server.request(body=json.dumps(CONTENT).encode(), headers={**JSON, **headers})


def serving_process(server: Server) -> tuple[int, bool]:
    """Return the pid that serves, and whether predict runs on the main thread."""
    pid, is_main = json.loads(server.request(path="/?who=1", body=b"{}", headers=JSON).body)
    return pid, is_main


@every_way
def test_it_answers_the_same(start: Start, serve: Serve, openbayes: Path, elsewhere: Path) -> None:
    server = start(serve, openbayes, cwd=elsewhere)
    reply = predict(server)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.body == ANSWER
    assert server.request(body=to_msgpack(CONTENT), headers=MSGPACK).body == ANSWER
    assert server.request(body=b"{", headers=JSON).status == 400
    assert server.request("GET").status == 200


@every_way
def test_from_its_own_directory(start: Start, serve: Serve, openbayes: Path) -> None:
    assert predict(start(serve, openbayes, cwd=openbayes)).body == ANSWER


@every_way
def test_its_class_may_come_from_a_package(start: Start, serve: Serve, tmp_path: Path) -> None:
    package = tmp_path / "model" / "net"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "names.py").write_text("FILE = 'weights'\n")
    (package / "net.py").write_text(
        "from .names import FILE\nclass Net:\n    def predict(self): return open(FILE).read()\n"
    )
    (tmp_path / "model" / "weights").write_text("those beside predictor.py")
    (tmp_path / "model" / "predictor.py").write_text(
        "from net.net import Net as Predictor\n" + RUN.format("Predictor")
    )
    server = start(serve, tmp_path / "model", cwd=tmp_path)
    assert server.request().body == b"those beside predictor.py"


@every_way
def test_it_stays_where_its_import_went(start: Start, serve: Serve, model: Path) -> None:
    (model / "net").mkdir()
    (model / "net" / "label.txt").write_text("seven")
    (model / "predictor.py").write_text(
        "import os\n\nos.chdir('net')\n\nclass Predictor:\n"
        "    def predict(self):\n        return open('label.txt').read()\n"
        + RUN.format("Predictor")
    )
    assert start(serve, Path(), cwd=model).request().body == b"seven"


def test_by_a_relative_path(serve: Serve, openbayes: Path) -> None:
    for script in (
        Path("openbayes", "predictor.py"),
        Path("..", openbayes.parent.name, "openbayes", "predictor.py"),
    ):
        for argv in ((), ("--workers", "2")):
            server = serve(*argv, script=script, cwd=openbayes.parent)
            assert predict(server).body == ANSWER


def test_a_script_serves_in_its_own_process(serve: Serve, openbayes: Path) -> None:
    server = as_script(serve, openbayes)
    assert serving_process(server) == (server.pid, True)
    assert psutil.Process(server.pid).children() == []


@pytest.mark.parametrize(
    ("start", "workers"),
    [(as_supervised_script, 2), (in_production, 1), (as_obworker, 1)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_process_becomes_the_master_of_its_workers(
    start: Start, workers: int, serve: Serve, openbayes: Path
) -> None:
    server = start(serve, openbayes).wait_until_ready(workers)
    found = server.workers()
    assert sorted(found) == list(range(workers))
    assert {worker.ppid() for worker in found.values()} == {server.pid}
    assert serving_process(server)[0] in {worker.pid for worker in found.values()}
    assert "obworker: master" in " ".join(psutil.Process(server.pid).cmdline())
    assert server.stop() == 0


def test_the_class_given_to_run_is_served(serve: Serve, model: Path) -> None:
    source = "\n".join(
        f"class {name}:\n    def predict(self):\n        return '{name}'\n"
        for name in ("First", "Predictor", "Last")
    )
    (model / "predictor.py").write_text(source + RUN.format("Last"))
    for start in (as_script, as_supervised_script, in_production):
        assert start(serve, model).request().body == b"Last"
    (model / "predictor.py").write_text(source + RUN.format("predictor_cls=Last"))
    assert as_script(serve, model).request().body == b"Last"
    assert as_obworker(serve, model).request().body == b"Predictor"


@every_way
def test_a_class_of_a_package_is_served_from_where_predictor_py_is(
    start: Start, serve: Serve, model: Path, elsewhere: Path
) -> None:
    (model / "service").mkdir()
    source = "class Digits:\n    def predict(self):\n        return open('label.txt').read()\n"
    (model / "service" / "digits.py").write_text(source)
    (model / "label.txt").write_text("seven")
    (model / "predictor.py").write_text(
        "from service.digits import Digits\n" + RUN.format("Digits")
    )
    assert start(serve, model, cwd=elsewhere).request().body == b"seven"


@every_way
def test_a_model_that_a_script_has_pickled_is_loaded(
    start: Start, serve: Serve, model: Path
) -> None:
    """What a script pickles says that its class is in __main__, where predictor.py was, too."""
    net = "class Net:\n    def __call__(self, x):\n        return x * self.weight\n\n"
    save = "net = Net()\nnet.weight = 21\npickle.dump(net, open('net.pkl', 'wb'))"
    script = [sys.executable, "-c", f"import pickle\n{net}{save}"]
    subprocess.run(script, cwd=model, check=True)
    (model / "predictor.py").write_text(
        f"import pickle\n{net}class Predictor:\n    def __init__(self):\n"
        "        self.net = pickle.load(open('net.pkl', 'rb'))\n\n"
        "    def predict(self, json):\n        return self.net(json)\n" + RUN.format("Predictor")
    )
    assert start(serve, model).request(body=b"2", headers=JSON).body == b"42"


@every_way
def test_what_it_logs_is_in_the_log(start: Start, serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(
        "import logging\n\nlog = logging.getLogger('predictor')\n\nclass Predictor:\n"
        "    def predict(self):\n        return 1\n\n"
        "    def run(self):\n        log.info('the camera is open')\n" + RUN.format("Predictor")
    )
    start(serve, model).wait_for_log("INFO .*the camera is open", 10)


@every_way
def test_model_path_is_relative_to_the_model_directory_too(
    start: Start, serve: Serve, model: Path, elsewhere: Path
) -> None:
    (model / "predictor.py").write_text(ONNX_RUN + RUN.format("Predictor"))
    (model / "a.onnx").write_bytes(b"not a model")
    (model / "b.onnx").write_bytes(IDENTITY)
    server = start(serve, model, "--model-path", "b.onnx", cwd=elsewhere)
    assert server.request(body=b"[1, 2.5]", headers=JSON).body == b"[[1.0,2.5]]"


@every_way
def test_an_exception_shows_its_traceback_in_the_log(
    start: Start, serve: Serve, openbayes: Path
) -> None:
    server = start(serve, openbayes)
    reply = server.request(body=b"{}", headers={**JSON, "X-Request-ID": "r-1"})
    assert reply.status == 500
    content = json.loads(reply.body)
    assert content["error"] == "Internal Server Error"
    assert ("traceback" in content) == (start is not in_production)
    server.wait_for_log(
        r"\[r-1\] predict raised KeyError\n"
        r"Traceback \(most recent call last\):\n"
        r'  File ".*predictor.py", line \d+, in predict\n(.*\n)+'
        r"KeyError: 'data'\n",
        10,
    )
    assert predict(server).body == ANSWER


def test_ctrl_c_ends_a_script_quietly(serve: Serve, openbayes: Path) -> None:
    server = as_script(serve, openbayes)
    assert predict(server).status == 200
    server.signal(signal.SIGINT)
    assert server.wait() == 130
    assert "Traceback" not in server.log()
    assert "KeyboardInterrupt" not in server.log()
    assert server.survivors() == []


def test_ctrl_c_ends_a_script_quietly_while_its_model_loads(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(
        "import time\n\n\nclass Predictor:\n    def __init__(self):\n"
        "        print('loads')\n        while True: time.sleep(0.1)\n\n"
        "    def predict(self):\n        return 1\n" + RUN.format("Predictor")
    )
    server = serve(script=model / "predictor.py")
    server.wait_for_log("loads")
    server.signal(signal.SIGINT)
    assert server.wait() == 130
    assert "KeyboardInterrupt" not in server.log()


def test_ctrl_c_ends_a_script_whose_main_thread_the_system_does_not_interrupt(
    serve: Serve, model: Path
) -> None:
    """As when the signal comes just before the thread begins to wait; here it is always so."""
    (model / "predictor.py").write_text(
        "import signal, obworker\n\n\nclass Predictor:\n    def predict(self):\n"
        "        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n        return 1\n\n\n"
        "obworker.run(Predictor)\n"
    )
    server = serve(script=model / "predictor.py")
    assert server.request().status == 200
    server.signal(signal.SIGINT)
    assert server.wait() == 130


# emit_event


class Recorder(HTTPServer):
    """What listens on the platform: keeps what is posted."""

    def __init__(self) -> None:
        super().__init__(RECORDER, Handler)
        self.posted: list[tuple[str, str | None, Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: Recorder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append(
            (self.path, self.headers["Content-Type"], msgpack.unpackb(body, raw=False))
        )
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    try:
        server = Recorder()
    except OSError as error:
        pytest.skip(f"the recorder's port cannot be had: {error}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


ID = 12345678901234567890


def test_events_reach_the_recorder_in_production(
    serve: Serve, openbayes: Path, recorder: Recorder
) -> None:
    server = in_production(serve, openbayes)
    reply = predict(server, **{"X-Openbayes-Serving-Request-Id": str(ID)})
    assert reply.body == ANSWER
    eventually(lambda: len(recorder.posted) == 5, what="five events")
    events = [
        {"id": ID, "name": "input", "data": b'{"data":[1,2]}'},
        {"id": ID, "name": "image", "data": b"\x89PNG"},
        {"id": ID, "name": "label", "data": "狗".encode()},
        {"id": ID, "name": "score", "data": b"5.0"},
        {"id": 7, "name": "given", "data": b"x"},
    ]
    assert recorder.posted == [("/events", "application/msgpack", event) for event in events]


def test_the_last_events_are_sent_when_the_server_stops(
    serve: Serve, openbayes: Path, recorder: Recorder
) -> None:
    server = in_production(serve, openbayes)
    predict(server, **{"X-Openbayes-Serving-Request-Id": "1"})
    assert server.stop() == 0
    assert [event["name"] for _, _, event in recorder.posted] == [
        "input",
        "image",
        "label",
        "score",
        "given",
    ]


def test_without_a_recorder_requests_are_answered_all_the_same(
    serve: Serve, openbayes: Path
) -> None:
    try:
        Recorder().server_close()
    except OSError as error:
        pytest.skip(f"something is on the recorder's port: {error}")
    server = in_production(serve, openbayes)
    for number in ("1", "2"):
        assert predict(server, **{"X-Openbayes-Serving-Request-Id": number}).body == ANSWER
    server.wait_for_log(r"event given not sent: .*refused", 10)


@pytest.mark.parametrize(
    "start", [as_obworker, as_script, as_supervised_script], ids=lambda start: start.__name__
)
def test_events_are_logged_outside_production(start: Start, serve: Serve, openbayes: Path) -> None:
    server = start(serve, openbayes)
    assert predict(server).body == ANSWER
    for line in (
        r"event input: \{'data': \[1, 2\]\}",
        "event image: <4 bytes>",
        "event label: '狗'",
        r"event score: 5\.0",
        "event given: 'x'",
    ):
        server.wait_for_log(line, 10)


# the background thread

BACKGROUND = """
import os
import threading

class PythonPredictor:
    def __init__(self):
        self.failing = threading.Event()

    def predict(self, params):
        if params.get("fail"):
            self.failing.set()
        return os.getpid()

    def run(self):
        self.failing.wait()
        raise RuntimeError("lost the queue")
""" + RUN.format("PythonPredictor")
LOGGED = (
    r"PythonPredictor\.run failed\nTraceback \(most recent call last\):\n"
    r'  File ".*predictor.py", line \d+, in run\n(.*\n)+RuntimeError: lost the queue\n'
)


@pytest.mark.parametrize("start", [as_obworker, as_script], ids=lambda start: start.__name__)
def test_a_background_thread_that_fails_is_logged(start: Start, serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(BACKGROUND)
    server = start(serve, model)
    pid = server.request().body
    assert server.request(path="/?fail=1").body == pid
    server.wait_for_log(LOGGED, 10)
    assert server.request().body == pid


def test_in_production_its_worker_is_replaced(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(BACKGROUND)
    server = in_production(serve, model)
    pid = server.request().body
    server.request(path="/?fail=1")
    server.wait_for_log(LOGGED, 10)

    def served_by_another() -> bytes | None:
        with suppress(OSError):
            found = server.request().body
            return found if found != pid else None
        return None

    replacement = eventually(served_by_another)
    eventually(lambda: not psutil.pid_exists(int(pid)), what="end of the old worker")
    assert [worker.pid for worker in server.workers().values()] == [int(replacement)]
    assert server.stop() == 0


FAILING_AT_ONCE = BACKGROUND.replace("self.failing.wait()", "pass")
RUN_RAISED = r"PythonPredictor.run raised RuntimeError: lost the queue"


def test_in_production_code_whose_run_fails_at_once_does_not_replace_what_serves(
    serve: Serve, model: Path
) -> None:
    (model / "predictor.py").write_text(BACKGROUND)
    server = in_production(serve, model)
    pid = server.request().body
    (model / "predictor.py").write_text(FAILING_AT_ONCE)
    server.signal(signal.SIGHUP)
    server.wait_for_log(rf"reload failed: predictor\.py:\d+: {RUN_RAISED}; generation 1 serves on")
    assert server.log().count("PythonPredictor.run failed") == 5
    assert server.request().body == pid


def test_in_production_a_start_with_such_code_is_given_up(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(FAILING_AT_ONCE)
    server = in_production(serve, model)
    assert server.wait() == 3
    assert re.search(rf"obworker: error: predictor\.py:\d+: {RUN_RAISED}$", server.log().strip())
