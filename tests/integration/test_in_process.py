"""``python predictor.py`` without a supervisor: how it is called, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Serve, Server, eventually

PREDICTOR = """
import io, os, sys, threading, time
import openbayes_serving as serv

class Predictor:
    def __init__(self):
        {init}

    def predict(self):
        return 1

{run}
"""
SLOW = """
import time, openbayes_serving as serv

class Predictor:
    def {predict}:
        print("began", flush=True)
        time.sleep(60)

serv.run(Predictor)
"""
RUN_TWICE = """
try:
    serv.run(Predictor)
except SystemExit as end:
    print(f"first ended with {end.code}\\n", end="", flush=True)
serv.run(Predictor)
"""
CALLED_ON_A_THREAD = """
thread = threading.Thread(target=serv.run, args=[Predictor])
thread.start()
thread.join()
"""
WITHOUT_A_DESCRIPTOR = """
sys.stderr = io.StringIO()
try:
    serv.run(Predictor)
finally:
    print(sys.stderr.getvalue())
"""
# Each of its kind is handled where it was set, and ends a process that has no handler for it.
TIMERS = """
import signal
for timer, sent in ((signal.ITIMER_REAL, signal.SIGALRM), (signal.ITIMER_VIRTUAL, signal.SIGVTALRM),
                    (signal.ITIMER_PROF, signal.SIGPROF)):
    signal.signal(sent, lambda *_: None)
    signal.setitimer(timer, 0.05, 0.05)
serv.run(Predictor)
"""

Start = Callable[..., Server]


@pytest.fixture
def start(serve: Serve, model: Path) -> Start:
    """Start a predictor.py in its own process."""

    def start_script(
        *argv: str, run: str = "serv.run(Predictor)", init: str = "pass", **more: object
    ) -> Server:
        script = model / "predictor.py"
        script.write_text(PREDICTOR.format(init=init, run=run))
        return serve(*argv, script=script, **more)

    return start_script


def test_ctrl_c_while_a_predictor_is_built_is_no_failure_of_its(start: Start) -> None:
    server = start(init="print('builds', flush=True); [time.sleep(0.1) for _ in range(600)]")
    server.wait_for_log("builds\n")
    server.signal(signal.SIGINT)
    assert server.wait(10) == 130
    assert "KeyboardInterrupt" not in server.log()


def test_what_a_predictor_raises_while_it_is_built_is_shown_where(start: Start) -> None:
    server = start(init="sum([None])")
    assert server.wait(10) == 3
    assert re.search(
        r'Traceback .*\n  File "\S+predictor\.py", line 7, in __init__\n(.*\n)+TypeError: .*\n'
        r"obworker: error: predictor\.py:7: Predictor\.__init__ raised TypeError: .*\n$",
        server.log(),
    )


@pytest.mark.parametrize(
    "predict", ["predict(self)", "predict_batch(self, data)"], ids=["predict", "predict_batch"]
)
def test_ctrl_c_in_a_call_ends_it_quietly(serve: Serve, model: Path, predict: str) -> None:
    script = model / "predictor.py"
    script.write_text(SLOW.format(predict=predict))
    server = serve(script=script)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST / HTTP/1.0\r\n\r\n")
        server.wait_for_log("began\n")
        server.signal(signal.SIGINT)
        assert server.wait(10) == 130
    assert "Traceback" not in server.log()


def test_a_process_that_init_forks_does_not_serve_beside_it(start: Start) -> None:
    server = start(init="os.fork() or time.sleep(0.1)")
    server.wait_for_log("a process that __init__ forked came back from it", 10)
    assert server.request().body == b"1"
    assert len(server.survivors()) == 1
    server.signal(signal.SIGINT)
    assert server.wait(10) == 130
    assert server.survivors() == []


@pytest.mark.parametrize("argv", [("--workers", "2", "--"), ("--",)])
def test_its_options_may_end_with_two_dashes(start: Start, argv: tuple[str, ...]) -> None:
    assert start(*argv).request().body == b"1"


def test_which_class_is_for_run_to_say(start: Start) -> None:
    server = start("--workers", "2", "--class", "Predictor")
    assert server.wait(10) == 2
    assert server.log().startswith("obworker: error: No such option")


def test_a_timer_of_the_script_does_not_end_the_supervisor(start: Start) -> None:
    server = start("--workers", "2", run=TIMERS).wait_until_ready(2)
    assert server.stop() == 0


def test_what_was_stopped_can_be_run_again(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start("--port", str(port), run=RUN_TWICE)
    assert server.request().body == b"1"
    server.signal(signal.SIGINT)
    server.wait_for_log("first ended with 130\n")
    eventually(lambda: server.log().count("serving") == 2 or server.process.poll() is not None)
    assert server.request().body == b"1"
    server.signal(signal.SIGINT)
    assert server.wait(10) == 130


def test_on_another_thread_it_says_where_it_belongs(start: Start) -> None:
    server = start(run=CALLED_ON_A_THREAD)
    server.wait(10)
    assert server.log() == (
        "obworker: error: run() has to be called on the main thread, where predict will run\n"
    )


def test_standard_error_need_not_be_a_descriptor(start: Start) -> None:
    server = start("--no-such-option", run=WITHOUT_A_DESCRIPTOR)
    assert server.wait(10) == 2
    assert server.log().startswith("obworker: error: No such option")


def test_a_relative_unix_socket_is_relative_to_where_it_was_started(
    start: Start, tmp_path: Path
) -> None:
    server = start("--bind", "unix:socket", listen=(), cwd=tmp_path)
    server.wait_for_log("serving")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "socket"))
        client.sendall(b"POST / HTTP/1.0\r\n\r\n")
        assert client.recv(1000)[:12] == b"HTTP/1.1 200"
    server.signal(signal.SIGINT)
    assert server.wait(10) == 130
    assert not (tmp_path / "socket").exists()
