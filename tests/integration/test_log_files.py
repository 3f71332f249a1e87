"""Logs in files, and what a rotation does to every process that writes to them."""

from __future__ import annotations

import signal
from pathlib import Path

from clients import Client
from harness import Serve, Server, eventually, run_to_end

PREDICTOR = """
import os, sys
class Predictor:
    def predict(self, params):
        print("printed", params.get("n"))
        os.write(2, f"written {params.get('n')}\\n".encode())
        return 1
"""


def ask(server: Server, port: int, number: int) -> None:
    assert Client(port, keep=False).post(f"/?n={number}").text == "1"


def test_every_process_writes_to_the_new_file_after_a_rotation(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    log, access = tmp_path / "log", tmp_path / "access"
    files = ("--log-file", str(log), "--access-log-file", str(access))
    server = serve("--workers", "2", *files, str(model))
    eventually(lambda: log.exists() and log.read_text().count(" ready in ") == 2)
    port = int(log.read_text().partition("http://127.0.0.1:")[2].partition("/")[0])
    ask(server, port, 1)
    old_log, old_access = log.rename(tmp_path / "log.1"), access.rename(tmp_path / "access.1")
    server.signal(signal.SIGUSR1)
    eventually(lambda: log.exists() and access.exists(), 5, "the new files")

    def lands_in_the_new_files() -> bool:
        ask(server, port, 2)
        return "n=2" in access.read_text() and "printed 2\nwritten 2\n" in log.read_text()

    eventually(lands_in_the_new_files, 5, "lines in the new files")
    server.workers()[0].kill()
    eventually(lambda: "killed by SIGKILL" in log.read_text() and " ready in " in log.read_text())
    assert "n=1" in old_access.read_text()
    assert "printed 1\nwritten 1\n" in old_log.read_text()
    assert server.stop() == 0
    assert log.read_text().splitlines()[-1].endswith("stopped")
    assert server.log() == ""


def test_a_file_that_cannot_be_written_is_an_error(model: Path, tmp_path: Path) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    path = tmp_path / "nowhere" / "log"
    result = run_to_end("--log-file", str(path), str(model))
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"obworker: error: --log-file: cannot append to {path}: No such file or directory"
    ]
