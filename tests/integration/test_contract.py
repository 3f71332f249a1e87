"""Every cell of the contract's tables holds over a socket; the rows are in tests/contract/."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from contract import CASES
from contract.failures import PRODUCTION
from contract.files import FILES
from contract.refusals import REFUSALS
from contract.returned import RETURNS
from contract.rows import Case, Model, Refusal
from fleet import Fleet
from harness import Reply, Serve, eventually, request, run_to_end

from obworker.supervisor.listeners import free_port


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    servers = Fleet(tmp_path_factory.mktemp("contract"))
    yield servers
    servers.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_contract(fleet: Fleet, case: Case) -> None:
    differences = case.differences(fleet.obworker(case))
    assert not differences, f"{differences}\n{fleet.log()}"


def test_every_row_has_a_name_of_its_own() -> None:
    names = [case.id for case in CASES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.model.name)
def test_what_cannot_be_served_is_named(refusal: Refusal, tmp_path: Path) -> None:
    directory = refusal.model.write(tmp_path)
    ended = run_to_end("--port", "0", *refusal.model.argv, str(directory))
    assert ended.returncode == refusal.exit_code, ended.stderr
    message = ended.stderr[ended.stderr.index("obworker: error: ") :]
    places = [message.find(name) for name in refusal.named]
    assert -1 not in places, f"{refusal.named} in {message}"


def test_a_model_directory_is_only_read(fleet: Fleet) -> None:
    model = FILES
    before = contents(fleet.write(model))
    for case in CASES:
        if case.model is model:
            assert fleet.obworker(case).status == 200
    directory = fleet.write(model)
    fleet.close()
    assert contents(directory) == before
    assert set(before) == set(model.files)


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def post(fleet: Fleet, model: Model, case: str) -> Reply:
    return request(fleet.server("obworker", model)[1], path=f"/?case={case}")


def test_a_generator_is_sent_as_it_is_produced(fleet: Fleet) -> None:
    _, port = fleet.server("obworker", RETURNS)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    connection.request("POST", "/?case=wait")
    response = connection.getresponse()
    assert response.read1(100) == b"first"
    # the generator goes on only when another request has let it
    assert post(fleet, RETURNS, "release").body == b"true"
    assert response.read() == b"second"
    connection.close()


@pytest.mark.parametrize("model", [RETURNS, PRODUCTION], ids=["local", "production"])
def test_what_cannot_be_sent_is_named_in_the_log(fleet: Fleet, model: Model) -> None:
    assert post(fleet, model, "set").status == 500
    server, _ = fleet.server("obworker", model)
    found = server.wait_for_log(r"predict returned what cannot be sent: (.*)", 10)
    assert found[1].startswith("a set cannot be sent; allowed are dict, list, tuple, str, bytes")


@pytest.mark.parametrize("model", [RETURNS, PRODUCTION], ids=["local", "production"])
def test_an_exception_is_in_the_log_with_the_request_id(fleet: Fleet, model: Model) -> None:
    server, port = fleet.server("obworker", model)
    reply = request(port, path="/?case=raise")
    id_ = reply.headers["x-request-id"]
    server.wait_for_log(
        rf"\[{id_}\] predict raised ValueError\nTraceback (.*\n)+ValueError: secret", 10
    )


LIMITED = """
import threading

class Predictor:
    def __init__(self, config):
        config.limit_concurrency(2)
        self.both = threading.Barrier(2, timeout=20)
        self.lock = threading.Lock()
        self.inside = self.most = 0

    def predict(self):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.both.wait()  # two do get in at once
        threading.Event().wait(0.05)  # and a third would, if it could
        with self.lock:
            self.inside -= 1
        return self.most
"""


def test_limit_concurrency(serve: Serve, model: Path) -> None:
    (model / "predictor.py").write_text(LIMITED)
    port = serve("--threads", "6", str(model)).port
    with ThreadPoolExecutor(6) as clients:
        replies = list(clients.map(lambda _: request(port), range(6)))
    assert [reply.status for reply in replies] == [200] * 6
    assert max(reply.body for reply in replies) == b"2"


@pytest.mark.parametrize(
    ("environ", "argv", "port"),
    [
        ({}, [], 25252),
        ({"OPENBAYES_SERVING_PORT": "4321"}, [], 4321),
        ({"OPENBAYES_SERVING_PRODUCTION": "1"}, [], 80),
        ({"OPENBAYES_SERVING_PRODUCTION": "1", "OPENBAYES_SERVING_PORT": "4321"}, [], 80),
        ({"OPENBAYES_JOB_URL": "http://x"}, [], 8080),
        ({"OPENBAYES_JOB_URL": "http://x", "OPENBAYES_SERVING_PRODUCTION": "1"}, [], 8080),
        ({"OPENBAYES_JOB_URL": "http://x"}, ["--port", "1"], 1),
        ({"OPENBAYES_SERVING_PRODUCTION": "1"}, ["--port", "1"], 1),
        ({"OPENBAYES_SERVING_PORT": "4321"}, ["--port", "1"], 1),
    ],
)
def test_environments_and_ports(environ: dict[str, str], argv: list[str], port: int) -> None:
    ended = run_to_end("--print-config", *argv, environ=environ)
    assert f"\nport = {port}  #" in ended.stdout
    assert '\nhost = "0.0.0.0"  # default' in ended.stdout


def test_start_sh_wins_over_predictor_py(serve: Serve, model: Path, tmp_path: Path) -> None:
    (model / "predictor.py").write_text("raise RuntimeError('predictor.py was imported')\n")
    (model / "answer.txt").write_text("start.sh")  # read by relative path: its directory
    (model / "start.sh").write_text('exec python3 -m http.server --bind 127.0.0.1 "$PORT"\n')
    (model / "start.sh").chmod(0o644)
    port = free_port()
    server = serve(str(model), listen=("--port", str(port)), cwd=tmp_path)

    def answer() -> bytes | None:
        assert server.process.poll() is None, server.log()
        try:
            return request(port, "GET", "/answer.txt").body
        except OSError:
            return None

    assert eventually(answer) == b"start.sh"
    server.stop()
    assert "predictor.py" not in server.log().replace(str(model), "")
