"""Logs in files, and what a rotation does to every process that writes to them."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
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


def who_has_open(server: Server, file: Path) -> list[psutil.Process]:
    """Return its processes for which a deleted file would still take its room on the disk."""
    master = psutil.Process(server.pid)
    return [
        process
        for process in [master, *master.children(recursive=True)]
        if str(file) in paths_open_in(process)
    ]


def paths_open_in(process: psutil.Process) -> list[str]:
    """Return the files that a process has open; of one that has just ended, none."""
    try:
        return [opened.path for opened in process.open_files()]
    except psutil.NoSuchProcess:
        return []


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
    eventually(lambda: not who_has_open(server, old_log), 5, "the end of the old file")
    server.workers()[0].kill()
    eventually(lambda: "killed by SIGKILL" in log.read_text() and " ready in " in log.read_text())
    assert "n=1" in old_access.read_text()
    assert "printed 1\nwritten 1\n" in old_log.read_text()
    assert server.stop() == 0
    assert log.read_text().splitlines()[-1].endswith("stopped")
    assert server.log() == ""


def test_a_reload_of_a_start_sh_takes_every_process_to_a_new_file(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    (model / "start.sh").write_text("exec python3 -m http.server $PORT\n")
    log = tmp_path / "log"
    server = serve("--log-file", str(log), str(model))
    eventually(lambda: log.exists() and " ready in " in log.read_text())
    old = log.rename(tmp_path / "log.1")
    server.signal(signal.SIGHUP)
    eventually(lambda: log.exists() and " ready in " in log.read_text())
    eventually(lambda: not who_has_open(server, old), 5, "the end of the old file")


def test_a_reload_that_fails_takes_nobody_to_a_new_file(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    old, new, config = tmp_path / "old", tmp_path / "new", tmp_path / "c.toml"
    config.write_text(f"log_file = '{old}'\n")
    environ = {"OBWORKER_ADMIN_BIND": "127.0.0.1:0"}
    server = serve("--config", str(config), str(model), environ=environ)
    eventually(lambda: old.exists() and " ready in " in old.read_text())
    (model / "predictor.py").write_text("1 / 0\n")
    config.write_text(f"log_file = '{new}'\n")
    server.signal(signal.SIGHUP)
    eventually(lambda: "reload failed" in old.read_text())
    eventually(lambda: not who_has_open(server, new), 5, "the end of the new file")
    assert server.stop() == 0
    assert old.read_text().endswith(" stopped\n")


def test_a_file_that_cannot_be_written_is_an_error(model: Path, tmp_path: Path) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    path = tmp_path / "nowhere" / "log"
    result = run_to_end("--log-file", str(path), str(model))
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"obworker: error: --log-file: cannot append to {path}: No such file or directory"
    ]


PREDICTOR_THAT_PRINTS = """
import sys
print("import")
class Predictor:
    def __init__(self):
        print("init", file=sys.stderr)
    def predict(self):
        print("predict")
        print("predict", file=sys.stderr)
        return 1
"""


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    """Bind a socket to lend, for a server that can say nowhere what its port is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def lend(listener: socket.socket) -> dict[str, Any]:
    descriptor = listener.fileno()
    return {"listen": ("--bind", f"fd:{descriptor}"), "pass_fds": (descriptor,)}


def test_no_request_and_no_worker_fails_by_what_cannot_be_printed(
    serve: Serve, model: Path, bound: socket.socket
) -> None:
    (model / "predictor.py").write_text(PREDICTOR_THAT_PRINTS)
    full = ("--log-file", "/dev/full", "--no-access-log")  # full(4): a disk without room
    server = serve(*full, str(model), **lend(bound))
    port = bound.getsockname()[1]
    ask(server, port, 1)
    (first,) = server.workers().values()
    first.kill()
    first.wait()
    ask(server, port, 2)
    assert server.stop() == 0


def test_standard_streams_may_be_closed(serve: Serve, model: Path, bound: socket.socket) -> None:
    (model / "predictor.py").write_text(PREDICTOR_THAT_PRINTS)
    closed = ("bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash")
    server = serve(str(model), under=closed, **lend(bound))
    ask(server, bound.getsockname()[1], 1)
    assert server.stop() == 0


def test_a_worker_takes_the_place_of_another_without_its_access_log(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text(PREDICTOR_THAT_PRINTS)
    directory = tmp_path / "logs"
    directory.mkdir()
    server = serve("--access-log-file", str(directory / "access"), str(model)).wait_until_ready()
    directory.rename(tmp_path / "moved")
    (first,) = server.workers().values()
    first.kill()
    server.wait_until_ready(2)
    assert server.request().status == 200
    assert "no access log for now: --access-log-file: cannot append to" in server.log()
    assert server.stop() == 0
