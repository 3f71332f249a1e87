"""The admin process itself, and how the master keeps it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from boards import fill, scoreboard
from harness import eventually, request

from obworker.errors import ListenError
from obworker.settings import Settings
from obworker.supervisor import admins, linux, listeners
from obworker.supervisor.admins import Admin, bind_admin
from obworker.supervisor.listeners import Address
from obworker.supervisor.scoreboard import Phase, Scoreboard, State
from obworker.supervisor.signals import OF_MASTER


def ended(admin: Admin) -> int:
    """Wait until the process has ended, and tell its master; return its exit code."""
    pid = admin.pid
    assert pid is not None
    eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, what="the end")
    code = linux.reap(pid)
    assert admin.exited(pid, code, time.monotonic())
    return code


def is_gone(admin: Admin) -> bool:
    return admin.is_gone


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    with scoreboard(1) as board:
        fill(board, 0, 0, State.IDLE)
        yield board


@pytest.fixture
def admin(board: Scoreboard) -> Iterator[Admin]:
    """Start an admin process that serves on a free port."""
    listener, _ = listeners.bind(Address("127.0.0.1", 0))
    admin = Admin(board.descriptor, listener, os.environ, "info", chance=lambda: 0.5)
    admin.start(time.monotonic())
    yield admin
    if admin.pid is not None:
        os.kill(admin.pid, signal.SIGKILL)
        ended(admin)
    admin.stop(0)


def test_a_probe_waits_for_a_process_that_is_yet_to_start(board: Scoreboard) -> None:
    listener, address = listeners.bind(Address("127.0.0.1", 0))
    admin = Admin(board.descriptor, listener, os.environ, "info")
    with socket.create_connection((address.host, address.port)):
        admin.stop(0)


def port_of(admin: Admin) -> int:
    assert admin._listener is not None
    port: int = admin._listener.getsockname()[1]
    eventually(lambda: answers(port), what="an answer")
    return port


def answers(port: int) -> bool:
    try:
        return request(port, "GET", "/livez").status == 200
    except ConnectionRefusedError:
        return False


def test_it_serves_what_the_scoreboard_says_now(admin: Admin, board: Scoreboard) -> None:
    port = port_of(admin)
    assert request(port, "GET", "/readyz").status == 200
    board.header.phase = Phase.STOPPING
    reply = request(port, "GET", "/healthz")
    assert (reply.status, json.loads(reply.body)["status"]) == (503, "stopping")


def test_it_is_called_by_its_name(admin: Admin) -> None:
    port_of(admin)
    assert " ".join(psutil.Process(admin.pid).cmdline()).strip() == "obworker: admin"


def test_no_signal_of_the_masters_takes_the_answers_away(admin: Admin) -> None:
    port = port_of(admin)
    assert admin.pid is not None
    for number in OF_MASTER:
        os.kill(admin.pid, number)
        assert request(port, "GET", "/livez").status == 200


def test_one_that_was_killed_is_started_again_on_the_same_port(admin: Admin) -> None:
    port, first = port_of(admin), admin.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert ended(admin) == -signal.SIGKILL
    due = admin.next_deadline
    assert due is not None
    admin.tend(due - 0.1)
    pids = [admin.pid]
    admin.tend(due)
    pids.append(admin.pid)
    assert pids[0] is None
    assert pids[1] not in (None, first)
    assert port_of(admin) == port


def test_one_that_dies_again_and_again_is_started_ever_later(board: Scoreboard) -> None:
    admin = Admin(board.descriptor, None, os.environ, "info", chance=lambda: 0.5)
    waits = []
    for _ in range(4):
        admin.start(0.0)
        assert admin.pid is not None
        os.kill(admin.pid, signal.SIGKILL)
        os.waitpid(admin.pid, 0)
        assert admin.exited(admin.pid, -9, 1.0)
        assert admin.next_deadline is not None
        waits.append(admin.next_deadline - 1.0)
    assert waits == [0.0, 0.5, 1.0, 2.0]


def test_one_that_cannot_be_made_is_tried_again(
    board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    admin = Admin(board.descriptor, None, os.environ, "info", chance=lambda: 0.5)
    admin.start(10.0)
    assert (admin.pid, admin.next_deadline) == (None, 10.5)


def test_other_children_are_not_its_business(admin: Admin) -> None:
    assert not admin.exited(1, 0, time.monotonic())
    assert admin.pid is not None


def test_after_a_good_bye_it_leaves_and_kills_nobody(admin: Admin, board: Scoreboard) -> None:
    port_of(admin)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as bystander:
        fill(board, 0, 0, State.IDLE, pid=bystander.pid)
        admin.stop(time.monotonic())
        assert not is_gone(admin)
        assert ended(admin) == 0
        assert is_gone(admin)
        assert admin.next_deadline is None
        assert bystander.poll() is None
        bystander.kill()


def test_one_that_does_not_leave_is_killed(admin: Admin) -> None:
    assert admin.pid is not None
    os.kill(admin.pid, signal.SIGSTOP)
    admin.stop(100.0)
    assert admin.next_deadline is not None
    admin.tend(admin.next_deadline)
    assert ended(admin) == -signal.SIGKILL
    assert admin.is_gone


def test_one_that_nothing_ends_is_not_waited_for(admin: Admin) -> None:
    pid = admin.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    admin.stop(100.0)
    admin.tend(100.0 + admins.LEAVE_TIMEOUT)
    assert linux.reap(pid) == -signal.SIGKILL  # and nobody says so: as if it slept on
    admin.tend(100.0 + admins.LEAVE_TIMEOUT + admins.KILL_TIMEOUT - 1)
    assert not is_gone(admin)
    admin.tend(100.0 + admins.LEAVE_TIMEOUT + admins.KILL_TIMEOUT)
    assert is_gone(admin)
    assert admin.next_deadline is None


FAMILY = "sleep 60 & sleep 60"


@pytest.mark.parametrize("serves", [True, False])
def test_when_the_master_is_gone_it_buries_what_lives(board: Scoreboard, serves: bool) -> None:
    listener = listeners.bind(Address("127.0.0.1", 0))[0] if serves else None
    admin = Admin(board.descriptor, listener, os.environ, "info")
    admin.start(time.monotonic())
    worker, mold, gone = (
        subprocess.Popen(["bash", "-c", FAMILY], start_new_session=True) for _ in range(3)
    )
    family = eventually(lambda: psutil.Process(worker.pid).children())
    fill(board, 0, 0, State.BUSY, pid=worker.pid)
    fill(board, 0, 1, State.BACKOFF, pid=gone.pid)
    board.header.mold_pids[1] = mold.pid
    assert admin._process is not None
    admin._process.channel.close()
    assert (worker.wait(5), mold.wait(5)) == (-signal.SIGKILL, -signal.SIGKILL)
    eventually(lambda: not any(is_alive(child) for child in family), 5, "end of the children")
    assert ended(admin) == 0
    assert gone.poll() is None
    os.killpg(gone.pid, signal.SIGKILL)
    gone.wait()
    admin.stop(0)


def is_alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def test_it_answers_at_once_while_others_keep_the_processor_busy(admin: Admin) -> None:
    port = port_of(admin)
    spinning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    started = time.monotonic()
    answered = [request(port, "GET", "/readyz").status for _ in range(10)]
    took = (time.monotonic() - started) / len(answered)
    for process in spinning:
        process.kill()
        process.wait()
    assert answered == [200] * 10
    assert took < 0.1


# the address


@pytest.mark.parametrize("lent", [False, True])
def test_the_file_of_its_socket_is_removed_unless_it_is_lent(
    lent: bool, board: Scoreboard, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    listener, _ = listeners.bind(Address(path=str(path)))
    Admin(board.descriptor, listener, os.environ, "info", lent=lent).stop(0)
    assert path.exists() is lent


def test_the_file_of_its_socket_has_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener, _ = bind_admin(Settings(admin_bind=f"unix:{path}", unix_mode="604"))
    assert listener
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    listener.close()


def test_off_binds_nothing() -> None:
    assert bind_admin(Settings(admin_bind="off")) == (None, None)


def test_an_address_that_is_asked_for_is_bound() -> None:
    listener, address = bind_admin(Settings(admin_bind="127.0.0.1:0"))
    assert listener is not None
    assert address == Address("127.0.0.1", listener.getsockname()[1])
    listener.close()


def test_an_address_that_is_asked_for_and_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"--admin-bind: cannot listen on {taken}: Address"):
            bind_admin(Settings(admin_bind=taken))


def test_without_an_address_a_taken_one_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(logging.getLogger("obworker"), "propagate", True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address("127.0.0.1", other.getsockname()[1])
        monkeypatch.setattr(admins, "DEFAULT_ADDRESS", taken)
        assert bind_admin(Settings()) == (None, None)
    assert [record.message for record in caplog.records] == [
        f"no health endpoints: cannot listen on {taken}: Address already in use; see --admin-bind"
    ]


def test_the_file_of_a_unix_socket_is_removed_at_the_end(board: Scoreboard, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    listener, _ = bind_admin(Settings(admin_bind=f"unix:{path}"))
    admin = Admin(board.descriptor, listener, os.environ, "info")
    assert path.is_socket()
    admin.stop(0)
    assert not path.exists()
    assert admin.is_gone
