"""Real servers that log to files."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest
from harness import SERVING, Serve, eventually, request, run_to_end

PREDICTOR = """
import os, subprocess

print("printed at import")

class Predictor:
    def predict(self):
        print("printed by predict")
        os.write(2, b"from C\\n")
        subprocess.run(["echo", "from a child"])
        return "ok"
"""

# Disables all loggers that it does not name: that is dictConfig's default.
DICT_CONFIG = """
import logging.config
CONFIG = {"version": 1, "root": {"level": "INFO", "handlers": []}}
%s
class Predictor:
    def __init__(self):
        %s
    def predict(self):
        %s
        raise ValueError("seen")
"""
CONFIGURE = "logging.config.dictConfig(CONFIG)"


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def port_in(log: Path) -> int:
    return int(eventually(lambda: SERVING.search(read(log)), 60, "a port in the log")[1])


def test_all_that_is_said_is_in_the_log_and_requests_in_the_access_log(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    """The paths are relative to where it was started; a predictor works in its directory."""
    (model / "predictor.py").write_text(PREDICTOR)
    paths = ("--log-file", "log", "--access-log-file", "access")
    server = serve(*paths, "--workers", "2", str(model), cwd=tmp_path)
    log, access = tmp_path / "log", tmp_path / "access"
    port = port_in(log)
    for i in range(10):
        assert request(port, path=f"/?{i}").status == 200
    said = ["printed at import", "printed by predict", "from C", "from a child"]
    eventually(lambda: all(words in read(log).splitlines() for words in said))
    eventually(lambda: read(access).count("\n") == 10)
    assert sorted(line.split("/?")[1][0] for line in read(access).splitlines()) == [*"0123456789"]
    assert server.stop() == 0
    assert server.log() == "", "standard error and output"
    assert list(model.glob("*log*")) == list(model.glob("*access*")) == []


def test_why_it_did_not_start_is_told_in_the_log_and_where_it_was_started(
    model: Path, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text("class Predictor: pass\n")
    log = tmp_path / "log"
    ended = run_to_end("--log-file", str(log), "--port", "0", str(model))
    assert ended.returncode == 4
    told = ended.stderr.splitlines()
    assert told[0].startswith("obworker: error: ")
    assert read(log).splitlines()[-len(told) :] == told


def test_a_log_file_that_cannot_be_had_is_an_error_at_once(model: Path, tmp_path: Path) -> None:
    (model / "predictor.py").touch()
    path = tmp_path / "missing" / "log"
    ended = run_to_end("--log-file", str(path), str(model))
    assert (ended.returncode, ended.stderr) == (
        2,
        f"obworker: error: --log-file: cannot append to {path}: No such file or directory\n",
    )


def test_what_a_start_script_says_is_in_the_log(model: Path, tmp_path: Path) -> None:
    (model / "start.sh").write_text("echo out; echo err >&2\n")
    log = tmp_path / "log"
    ended = run_to_end("--log-file", str(log), "--port", "25299", str(model))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert {"out", "err"} <= set(read(log).splitlines())


@pytest.mark.parametrize("returned", ["parts()", "flask.Response(parts())"])
def test_a_stream_that_breaks_off_is_one_error_with_the_frames_of_the_user(
    serve: Serve, model: Path, returned: str
) -> None:
    source = (
        "import flask\ndef parts():\n    yield 'a'\n    raise ValueError\n"
        f"class Predictor:\n    def predict(self):\n        return {returned}\n"
    )
    (model / "predictor.py").write_text(source)
    server = serve("--no-access-log", str(model))
    with pytest.raises(http.client.IncompleteRead):
        server.request()
    server.wait_for_log(r"(?m)^ValueError$")
    assert server.stop() == 0
    assert server.log().count("ERROR") == server.log().count("Traceback") == 1
    assert "obworker/" not in server.log()


@pytest.mark.parametrize("place", range(3))
def test_errors_are_logged_whatever_the_predictor_makes_of_logging(
    serve: Serve, model: Path, place: int
) -> None:
    places = [CONFIGURE if place == i else "pass" for i in range(3)]
    (model / "predictor.py").write_text(DICT_CONFIG % tuple(places))
    server = serve("--no-access-log", str(model))
    assert server.request().status == 500
    server.wait_for_log("predict raised ValueError\n")
    server.wait_for_log("ValueError: seen\n")
    assert server.stop() == 0


ODD = """
class Attributes(Exception):
    def __getattr__(self, name): raise KeyError(name)

class Endless(Exception):
    def __getattr__(self, name): return getattr(self.inner, name)

class Message(RuntimeError):
    def __str__(self): raise SystemExit

class Members(Exception):
    exceptions = {"a": 1}

class Predictor:
    def predict(self, params):
        raise globals()[params["kind"]]("seen")
"""


def test_an_odd_exception_is_an_error_like_any_other(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(ODD)
    server = serve(str(model))
    for kind in ("Attributes", "Endless", "Message", "Members"):
        reply = server.request(path=f"/?kind={kind}")
        assert reply.status == 500
        assert b"raise globals()" in reply.body
        assert f"predict raised {kind}" in server.log()
    assert server.log().count('raise globals()[params["kind"]]("seen")') == 4
    assert server.stop() == 0
