"""The commands, run as people run them, against a master that only answers."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from boards import NOW, fill, scoreboard
from harness import command, eventually

from obworker import control
from obworker.errors import CommandError
from obworker.supervisor import health, rendezvous
from obworker.supervisor.control import Control, Request
from obworker.supervisor.scoreboard import State


class FakeMaster:
    """Answers what it is asked as `answer` says, on a thread of its own."""

    def __init__(self, path: Path, answer: Callable[[Request], None]) -> None:
        self.requests: list[Request] = []
        self.path = path
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._waker = socket.socketpair()
        self._selector.register(self._wakeup, selectors.EVENT_READ, None)
        self._control = Control(path, self._selector, self._take)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _take(self, request: Request) -> None:
        self.requests.append(request)
        self._answer(request)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._control.close()
                    return
                key.data()

    def stop(self) -> None:
        """Close the control socket; the thread ends."""
        self._waker.send(b".")
        self._thread.join()
        self._selector.close()
        self._wakeup.close()
        self._waker.close()


def answer(request: Request) -> None:
    """Do what an obworker would that serves ./model as process 7."""
    if request.command == "status":
        with scoreboard(1, label="./model", master_pid=7) as board:
            fill(board, 0, 0, State.IDLE, pid=8)
            request.reply(health.report(board, NOW))
    elif request.command == "stacks" and request.arguments["slot"] > 0:
        request.fail("there is no worker 1")
    elif request.command == "reload" and request.arguments["wait"]:
        request.fail("predictor.py:3: SyntaxError", exit_code=4)
    elif request.command != "stop" or not request.arguments["wait"]:
        request.reply({"shown": ["worker 0 (pid 8)"]})


Start = Callable[..., FakeMaster]


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """Return an XDG_RUNTIME_DIR; it has the directory for control sockets."""
    (tmp_path / "obworker").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def start(runtime: Path) -> Iterator[Start]:
    masters: list[FakeMaster] = []

    def start(name: str = "7.sock", answer: Callable[[Request], None] = answer) -> FakeMaster:
        masters.append(FakeMaster(runtime / "obworker" / name, answer))
        return masters[-1]

    yield start
    for master in masters:
        if master.path.exists():
            master.stop()


Run = Callable[..., tuple[int, str, str]]

# The commands look in directories of the machine, too, where another obworker may run.
PROGRAM = """
import pathlib
from obworker.cli import main
from obworker.supervisor import rendezvous
rendezvous.directories = lambda runtime, user: [pathlib.Path(runtime, "obworker")]
main()
"""


@pytest.fixture
def run(runtime: Path) -> Run:
    """Run a command; return its exit code, its output and its errors."""

    def run(*argv: str, **environ: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, *argv],
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), **environ},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return ended.returncode, ended.stdout, ended.stderr

    return run


COMMANDS = [
    (("reload",), {"wait": False}, (0, "reloading\n", "")),
    (("reload", "--wait"), {"wait": True}, (4, "", "error: predictor.py:3: SyntaxError\n")),
    (("scale", "4"), {"workers": 4}, (0, "scaling to 4 workers\n", "")),
    (("scale", "1"), {"workers": 1}, (0, "scaling to 1 worker\n", "")),
    (("stop",), {"wait": False}, (0, "stopping\n", "")),
    (
        ("stacks", "0"),
        {"slot": 0},
        (0, "worker 0 (pid 8) writes its stacks to the log of obworker\n", ""),
    ),
    (("stacks", "1"), {"slot": 1}, (1, "", "error: there is no worker 1\n")),
]


@pytest.mark.parametrize(("argv", "arguments", "expected"), COMMANDS)
def test_a_command_is_given_to_the_only_obworker(
    start: Start,
    run: Run,
    argv: tuple[str, ...],
    arguments: dict[str, object],
    expected: tuple[int, str, str],
) -> None:
    master = start()
    code, output, errors = run(*argv)
    assert (code, output, errors.removeprefix("obworker: ")) == expected
    asked = master.requests[-1]
    assert (asked.command, asked.arguments) == (argv[0], arguments)


def test_the_status_is_a_table_or_json(start: Start, run: Run) -> None:
    start()
    code, output, _ = run("status")
    assert (code, output.splitlines()[1]) == (0, "ok: 1 of 1 workers ready")
    (row,) = (line for line in output.splitlines() if line.startswith("0  "))
    assert row.split()[:3] == ["0", "idle", "8"]
    code, output, _ = run("status", "--json")
    assert (code, json.loads(output)["pid"]) == (0, 7)


def test_a_reload_is_waited_for(start: Start, run: Run) -> None:
    later: list[threading.Timer] = []

    def answer_later(request: Request) -> None:
        if request.command == "status":
            answer(request)
        else:
            later.append(threading.Timer(0.3, request.reply, [{}]))
            later[0].start()

    start(answer=answer_later)
    assert run("reload", "--wait") == (0, "reloaded\n", "")
    later[0].join()


def test_a_stop_is_waited_for_until_the_end(start: Start, run: Run) -> None:
    master = start()
    stopping = subprocess.Popen(
        command("stop", "--wait", "--control-socket", str(master.path)), stdout=subprocess.PIPE
    )
    eventually(lambda: master.requests, what="the command")
    assert stopping.poll() is None
    master.stop()
    output, _ = stopping.communicate(timeout=30)
    assert (stopping.returncode, output) == (0, b"stopped\n")


def test_a_wait_can_be_interrupted(start: Start) -> None:
    master = start()
    stopping = subprocess.Popen(
        command("stop", "--wait", "--control-socket", str(master.path)), stderr=subprocess.PIPE
    )
    eventually(lambda: master.requests, what="the command")
    stopping.send_signal(signal.SIGINT)
    _, errors = stopping.communicate(timeout=30)
    assert stopping.returncode == 130
    assert b"Traceback" not in errors


def test_one_that_hangs_is_not_waited_for(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_TIMEOUT", 0.1)
    questions = iter(range(3))

    def answer_thrice(request: Request) -> None:
        if next(questions, None) is not None:
            answer(request)

    master = start(answer=answer_thrice)
    with pytest.raises(CommandError, match=r"does not answer within 0\.1 s"):
        control.stop(master.path, wait=True)
    assert [request.command for request in master.requests] == ["stop", *["status"] * 3]


def test_an_obworker_that_dies_meanwhile_is_a_failure(start: Start, run: Run) -> None:
    master = start()

    def die(request: Request) -> None:
        threading.Thread(target=master.stop).start()

    master._answer = die
    code, _, errors = run("reload", "--wait", "--control-socket", str(master.path))
    assert code == 1
    assert errors == f"obworker: error: obworker at {master.path} ended before it answered\n"


# which obworker


def test_without_one_it_is_a_usage_error(run: Run, runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(runtime / "obworker" / "3.sock"))
        code, _, errors = run("status")
    assert code == 2
    assert errors.startswith("obworker: error: no obworker of yours is running\nhint: ")


def test_with_several_it_asks_which(start: Start, run: Run) -> None:
    def answer_as_9(request: Request) -> None:
        with scoreboard(1, label="./other", master_pid=9) as board:
            request.reply(health.report(board, NOW))

    first, second = start("a.sock"), start("b.sock", answer_as_9)
    code, _, errors = run("status")
    assert code == 2
    assert errors == (
        "obworker: error: several obworkers are running;"
        f" pid 7: ./model (--control-socket {first.path});"
        f" pid 9: ./other (--control-socket {second.path})\n"
        "hint: give --pid or --control-socket\n"
    )
    code, output, _ = run("status", "--pid", "9")
    assert (code, output.split()[0]) == (0, "./other")
    code, output, _ = run("status", "--control-socket", str(first.path))
    assert (code, output.split()[0]) == (0, "./model")
    code, output, _ = run("status", OBWORKER_CONTROL_SOCKET=str(second.path))
    assert (code, output.split()[0]) == (0, "./other")
    code, _, errors = run("status", "--pid", "3")
    assert code == 2
    assert errors.startswith("obworker: error: no obworker has pid 3; pid 7")


def test_one_that_does_not_answer_is_named(run: Run, runtime: Path) -> None:
    path = runtime / "obworker" / "5.sock"
    with socket.socket(socket.AF_UNIX) as frozen, socket.socket(socket.AF_UNIX) as second:
        frozen.bind(str(path))
        frozen.listen()
        second.bind(str(path.with_name("6.sock")))
        second.listen()
        code, _, errors = run("status")
    assert code == 2
    assert f"pid 5: does not answer (--control-socket {path})" in errors


def test_of_one_that_is_silent_it_is_said_how_to_find_out_why(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control"))
        silent.listen()
        with pytest.raises(CommandError, match=r"does not answer within 0\.1 s") as raised:
            control.ask(tmp_path / "control", "status", timeout=0.1)
    assert f"kill -RTMIN {os.getpid()} has it write" in str(raised.value.hint)


def test_one_that_has_not_answered_for_so_long_that_its_queue_is_full_is_there_all_the_same(
    run: Run, runtime: Path
) -> None:
    path = runtime / "obworker" / "5.sock"
    with ExitStack() as opened:
        held_up = opened.enter_context(socket.socket(socket.AF_UNIX))
        held_up.bind(str(path))
        held_up.listen(0)
        with suppress(BlockingIOError):
            while True:
                opened.enter_context(rendezvous.connect(path, 1))
        code, _, errors = run("status")
    assert (code, errors) == (
        1,
        f"obworker: error: obworker at {path} does not answer: too many wait for that already\n",
    )


def test_a_socket_that_is_none_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    code, _, errors = run("status", "--control-socket", str(tmp_path / "none"))
    assert code == 2
    expected = f"no obworker at {tmp_path}/none: No such file or directory"
    assert errors == f"obworker: error: {expected}\n"


@pytest.fixture
def web_server(runtime: Path) -> Iterator[Path]:
    """Serve something else where control sockets are; return its path."""
    path = runtime / "obworker" / "web.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_refuse_one, args=(listener,))
        thread.start()
        yield path
        thread.join(10)


def _refuse_one(listener: socket.socket) -> None:
    with listener.accept()[0] as client:
        client.recv(100)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_what_is_no_control_socket_is_said_to_be_none(run: Run, web_server: Path) -> None:
    code, _, errors = run("status", "--control-socket", str(web_server))
    assert code == 2
    assert errors.splitlines()[0] == (
        f"obworker: error: no obworker at {web_server}: it is no control socket"
    )


def test_a_socket_of_others_is_not_taken_for_an_obworker(
    start: Start, run: Run, web_server: Path
) -> None:
    start()
    code, output, _ = run("status")
    assert (code, output.split()[0]) == (0, "./model"), web_server


def test_a_path_that_is_too_long_is_a_usage_error(run: Run) -> None:
    code, _, errors = run("status", "--control-socket", "x" * 200)
    assert code == 2
    assert errors.endswith(": AF_UNIX path too long\n")


# the command line


@pytest.mark.parametrize("name", ["status", "reload", "scale", "stop", "stacks"])
def test_every_command_has_a_help(run: Run, name: str) -> None:
    code, output, errors = run(name, "-h")
    assert (code, errors) == (0, "")
    assert output.startswith(f"Usage: obworker {name} [OPTIONS]")
    assert "--control-socket PATH" in output
    assert f"obworker {name}" in run("--help")[1]


@pytest.mark.parametrize(
    "argv", [("scale",), ("scale", "0"), ("scale", "x"), ("stacks", "-1"), ("status", "--x")]
)
def test_a_mistake_is_a_usage_error(run: Run, argv: tuple[str, ...]) -> None:
    code, _, errors = run(*argv)
    assert code == 2
    assert errors.startswith("obworker: error: ")
    assert errors.endswith(f"hint: obworker {argv[0]} --help\n")


def test_a_model_may_have_the_name_of_a_command(run: Run) -> None:
    for argv, hint in (
        (("./status",), ""),
        (("--workers", "1", "status"), "hint: did you mean the command obworker status?\n"),
    ):
        code, _, errors = run(*argv)
        assert code == 2
        assert errors == f"obworker: error: {argv[-1]}: there is no such file or directory\n{hint}"
