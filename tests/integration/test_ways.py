"""However predict is reached, what it returns or raises is answered as the contract says."""

from __future__ import annotations

import http.client
import signal
import ssl
from pathlib import Path

import pytest
from certificates import Authority
from contract import CASES
from contract.returned import RETURNS
from contract.rows import Case
from harness import Reply, Serve, Server

PLAIN = "    def predict(self, request, params):\n"
AWAITED = "    async def predict(self, request, params):\n"
IN_BATCHES = """
    def predict_batch(self, request, params):
        return [self.item(*both) for both in zip(request, params)]

    def item(self, request, params):
        try:
            return self.predict_one(request, params)
        except Exception as error:
            return error

    def predict_one(self, request, params):
"""
RUN = "\nif __name__ == '__main__':\n    import obworker\n    obworker.run(Predictor)\n"
# predict_batch cannot stream, and has no one request to be flask.request; see docs/batching.md
ONLY_PREDICT = ("stream-", "send-file-", "returns-form-key")
GENERATORS = ("returns-raise-generator", "returns-abort-generator")


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return RETURNS.write(tmp_path)


def change(directory: Path, predict: str = PLAIN, end: str = "") -> Path:
    """Have the predictor's predict be another one."""
    file = directory / "predictor.py"
    source = file.read_text()
    assert source.count(PLAIN) == 1
    file.write_text(source.replace(PLAIN, predict) + end)
    return directory


def cases(*without: str) -> list[Case]:
    return [case for case in CASES if case.model is RETURNS and not case.id.startswith(without)]


def answers(server: Server, case: Case) -> Reply:
    return server.request(case.method, case.path, case.content, case.headers)


def differences(server: Server, *without: str) -> dict[str, list[str]]:
    """Return for each case of the contract how its answer differs, if it does."""
    asked = cases(*without)
    assert len(asked) > 200
    found = {case.id: case.differences(answers(server, case)) for case in asked}
    return {id_: told for id_, told in found.items() if told}


def test_by_a_coroutine(serve: Serve, write: Path) -> None:
    server = serve(*RETURNS.options, str(change(write, AWAITED)))
    assert differences(server) == {}


def test_in_batches(serve: Serve, write: Path) -> None:
    server = serve(*RETURNS.options, str(change(write, IN_BATCHES.lstrip("\n"))))
    assert differences(server, *ONLY_PREDICT, *GENERATORS) == {}


def test_in_a_worker_that_imports_by_itself(serve: Serve, write: Path) -> None:
    server = serve(*RETURNS.options, "--preload", "off", str(write))
    assert differences(server) == {}


def test_after_a_reload(serve: Serve, write: Path) -> None:
    server = serve(*RETURNS.options, str(write)).wait_until_ready()
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloaded ")
    assert differences(server) == {}


def test_in_the_process_of_a_script(serve: Serve, write: Path) -> None:
    change(write, end=RUN)
    assert differences(serve(*RETURNS.options, script=write / "predictor.py")) == {}


def test_by_tls(serve: Serve, write: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server")
    files = ("--certfile", str(issued.cert), "--keyfile", str(issued.key))
    server = serve(*RETURNS.options, *files, str(write))
    trusting = ssl.create_default_context(cafile=str(authority.own.cert))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=30, context=trusting)
    found = {case.id: case.differences(ask(connection, case)) for case in cases()}
    connection.close()
    assert {id_: told for id_, told in found.items() if told} == {}


def ask(connection: http.client.HTTPConnection, case: Case) -> Reply:
    connection.request(case.method, case.path, case.content, dict(case.headers))
    response = connection.getresponse()
    fields = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, fields, response.read())
