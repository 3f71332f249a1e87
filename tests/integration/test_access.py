"""API keys, CORS, request ids and the access log, as clients and operators meet them."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from harness import Reply, Serve, Server, eventually, run_to_end

KEY, NEW_KEY = "sk-0123456789abcdef", "sk-fedcba9876543210"
ORIGIN = "https://app.example"

PREDICTOR = """
import logging
import time

import obworker

class Predictor:
    def predict(self, params, headers):
        if "sleep" in params:
            time.sleep(float(params["sleep"]))
        if "raise" in params:
            raise ValueError
        if "exit" in params:
            raise SystemExit
        logging.getLogger("users.own").warning("hello from %s", headers["X-Request-ID"])
        return obworker.request_id() + " " + headers.get("traceparent", "none")
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# the app\n{KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def echoing(model: Path) -> Path:
    (model / "predictor.py").write_text(PREDICTOR)
    return model


def ask(server: Server, key: str, **headers: str) -> Reply:
    return server.request(headers={"Authorization": f"Bearer {key}", **headers})


class TestKeys:
    def test_only_who_has_one_and_probes_are_served(
        self, serve: Serve, echoing: Path, keys: Path
    ) -> None:
        server = serve("--api-key-file", str(keys), "--workers", "2", str(echoing))
        assert ask(server, KEY).status == 200
        assert server.request(headers={"X-API-Key": KEY}).status == 200
        for path in ("/livez", "/readyz"):
            assert server.request("GET", path).status == 200
        for method, path in (("POST", "/"), ("GET", "/"), ("POST", "/livez"), ("GET", "/other")):
            reply = server.request(method, path)
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert list(json.loads(reply.body)) == ["error"]
        assert ask(server, NEW_KEY).status == 401
        assert server.stop() == 0
        assert "sk-" not in server.log()

    @pytest.mark.parametrize("preload", ["auto", "off"])
    def test_a_reload_reads_them_again(
        self, serve: Serve, echoing: Path, keys: Path, preload: str
    ) -> None:
        server = serve("--api-key-file", str(keys), "--preload", preload, str(echoing))
        assert ask(server, KEY).status == 200
        keys.write_text(NEW_KEY)
        assert ask(server, NEW_KEY).status == 401
        server.signal(signal.SIGHUP)
        server.wait_for_log("reloaded ")
        eventually(lambda: ask(server, NEW_KEY).status == 200)
        eventually(lambda: ask(server, KEY).status == 401)

    def test_a_file_that_is_wrong_ends_the_reload_and_the_old_keys_stay(
        self, serve: Serve, echoing: Path, keys: Path
    ) -> None:
        server = serve("--api-key-file", str(keys), str(echoing)).wait_until_ready()
        keys.write_text("")
        server.signal(signal.SIGHUP)
        wrong = rf"reload failed: --api-key-file: {keys} has no key in it; generation 1 serves on"
        server.wait_for_log(wrong)
        assert ask(server, KEY).status == 200
        server.workers()[0].kill()
        server.wait_until_ready(2)
        eventually(lambda: ask(server, KEY).status == 200)
        assert server.request().status == 401, "who takes its place has them, too"

    def test_a_file_that_is_wrong_is_an_error_at_the_start(self, model: Path, keys: Path) -> None:
        (model / "predictor.py").write_text(PREDICTOR)
        keys.write_text("not a key\n")
        ended = run_to_end("--api-key-file", str(keys), str(model))
        wrong = f"{keys}, line 1: a key is printable ASCII without white space"
        assert ended.returncode == 2
        assert ended.stderr == f"obworker: error: --api-key-file: {wrong}\n"

    def test_a_script_is_served_with_them(self, serve: Serve, model: Path, keys: Path) -> None:
        script = model / "predictor.py"
        script.write_text(PREDICTOR + "\nif __name__ == '__main__': obworker.run(Predictor)\n")
        server = serve("--api-key-file", str(keys), script=script)
        assert ask(server, KEY).status == 200
        assert server.request().status == 401

    def test_a_start_script_has_to_ask_for_them_itself(self, model: Path, keys: Path) -> None:
        (model / "start.sh").write_text("echo started\n")
        ended = run_to_end("--api-key-file", str(keys), "--port", "25298", str(model))
        assert ended.returncode == 2
        assert "--api-key-file: a start.sh has to ask for keys by itself" in ended.stderr
        assert ended.stdout == ""


def test_a_page_may_ask_with_a_key(serve: Serve, echoing: Path, keys: Path) -> None:
    server = serve("--api-key-file", str(keys), "--cors-origin", ORIGIN, str(echoing))
    asks = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = server.request("OPTIONS", headers=asks)
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
    for reply, status in (
        (ask(server, KEY, Origin=ORIGIN), 200),
        (server.request(headers={"Origin": ORIGIN}), 401),
        (server.request(path="/?raise=1", headers={"Origin": ORIGIN, "X-API-Key": KEY}), 500),
    ):
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert "x-request-id" in reply.headers
    stranger = ask(server, KEY, Origin="https://evil.example")
    assert "access-control-allow-origin" not in stranger.headers


def test_a_request_is_called_the_same_wherever_it_is_named(
    serve: Serve, echoing: Path, tmp_path: Path
) -> None:
    access = tmp_path / "access"
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    files = ("--access-log-file", str(access), "--access-log-format", "json")
    server = serve("--workers", "2", *files, str(echoing))
    for sent in ({}, {"X-Request-ID": "r-1", "traceparent": trace}):
        reply = server.request(headers=sent)
        id_ = reply.headers["x-request-id"]
        assert id_ == sent.get("X-Request-ID", id_)
        assert reply.body.decode() == f"{id_} {sent.get('traceparent', 'none')}"
        server.wait_for_log(rf"WARNING \[\d+\] \[{id_}\] hello from {id_}\n")
    failed = server.request(path="/?raise=1").headers["x-request-id"]
    server.wait_for_log(rf"ERROR   \[\d+\] \[{failed}\] predict raised ValueError\n")
    eventually(lambda: access.read_text().count("\n") == 3)
    lines = [json.loads(line) for line in access.read_text().splitlines()]
    found = {line["request_id"]: line for line in lines}
    assert found["r-1"]["trace_id"] == "a" * 32
    assert found[failed]["status"] == 500
    assert {line["slot"] for line in lines} <= {0, 1}
    assert len(found) == 3


def test_a_predict_that_is_late_is_named(serve: Serve, echoing: Path) -> None:
    server = serve("--timeout", "0.3", str(echoing))
    reply = server.request(path="/?sleep=20", headers={"X-Request-ID": "late"})
    assert (reply.status, reply.headers["x-request-id"]) == (504, "late")
    server.wait_for_log(r"\[late\] worker 0: POST /\?sleep=20 HTTP/1.1 took over")


def test_the_size_of_an_answer_is_that_of_what_was_sent(
    serve: Serve, echoing: Path, tmp_path: Path
) -> None:
    access = tmp_path / "access"
    files = ("--access-log-file", str(access), "--access-log-format", "json")
    server = serve("--timeout", "0.3", *files, str(echoing))
    queries = ("", "raise=1", "exit=1", "sleep=20")
    sizes = [len(server.request(path=f"/?{query}").body) for query in queries]
    eventually(lambda: access.read_text().count("\n") == len(queries))
    assert [json.loads(line)["bytes"] for line in access.read_text().splitlines()] == sizes


def test_no_line_is_lost_when_it_stops(serve: Serve, echoing: Path) -> None:
    """The lines of the last moments wait to be written when the last request is answered."""
    server = serve("--workers", "2", str(echoing)).wait_until_ready(2)
    for i in range(20):
        assert server.request(path=f"/?n={i}").status == 200
    assert server.stop() == 0
    assert len(re.findall(r'"POST /\?n=(\d+) ', server.log())) == 20
