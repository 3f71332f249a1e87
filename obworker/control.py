"""The client of the control socket: finds a running obworker, asks it, reads the answer."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obworker.errors import CommandError, UsageError
from obworker.supervisor import rendezvous

ANSWER_TIMEOUT = 10.0
FIND_TIMEOUT = 2.0

Result = dict[str, Any]


@dataclass(frozen=True)
class Running:
    """An obworker with a control socket; what is not known of it is None."""

    path: Path
    pid: int | None
    model: str | None

    def __str__(self) -> str:
        pid = "?" if self.pid is None else self.pid
        return f"pid {pid}: {self.model or 'does not answer'} (--control-socket {self.path})"


def ask(
    path: Path, command: str, *, timeout: float | None = ANSWER_TIMEOUT, **given: Any
) -> Result:
    """Give a command and return the result.

    With `timeout` None, wait as long as the master answers other questions.

    Raises:
        UsageError: no obworker listens there.
        CommandError: it was not done, or there is no answer, for example from a stopped process.
    """
    return _result(path, _answer(path, timeout, {"command": command, "arguments": given}))


def _answer(path: Path, timeout: float | None, request: Mapping[str, Any]) -> bytes:
    try:
        with rendezvous.connect(path, timeout or ANSWER_TIMEOUT) as connection:
            pid = rendezvous.listener_of(connection)
            _must_not_be_stopped(path, pid)
            connection.sendall(json.dumps(request).encode() + b"\n")
            if timeout is None:
                _wait(path, connection)
            return connection.makefile("rb").readline()
    except TimeoutError as error:
        problem = f"obworker at {path} does not answer within {timeout or ANSWER_TIMEOUT:g} s"
        raise CommandError(problem, _hint_to_find_out_why(pid)) from error
    except BlockingIOError as error:  # its backlog is full
        reason = "too many wait for that already"
        raise CommandError(f"obworker at {path} does not answer: {reason}") from error
    except (BrokenPipeError, ConnectionResetError) as error:
        raise _went_away(path) from error
    except OSError as error:
        raise UsageError(f"no obworker at {path}: {error.strerror or error}") from error


def _wait(path: Path, connection: socket.socket) -> None:
    """Wait for an answer or the end; ask for the status meanwhile, to notice a hanging master."""
    while not select.select([connection], [], [], ANSWER_TIMEOUT)[0]:
        with contextlib.suppress(UsageError):  # it has just ended
            _answer(path, ANSWER_TIMEOUT, {"command": "status", "arguments": {}})


def _hint_to_find_out_why(pid: int) -> str | None:
    if not pid:
        return None
    return f"kill -RTMIN {pid} has it write to its log where it is; /healthz says how things stand"


def _must_not_be_stopped(path: Path, pid: int) -> None:
    if rendezvous.is_stopped(pid):
        raise CommandError(
            f"obworker at {path} is stopped (SIGSTOP): its workers serve on, and are not replaced",
            hint=f"kill -CONT {pid} lets it go on; /healthz says how things stand meanwhile",
        )


def _result(path: Path, answer: bytes) -> Result:
    if not answer.endswith(b"\n"):
        raise _went_away(path)
    try:
        message = json.loads(answer)
    except ValueError as error:
        raise UsageError(f"no obworker at {path}: it is no control socket") from error
    if not message["ok"]:
        raise CommandError(message["error"], exit_code=message["exit_code"])
    result: Result = message["result"]
    return result


def _went_away(path: Path) -> CommandError:
    return CommandError(f"obworker at {path} ended before it answered")


def stop(path: Path, *, wait: bool) -> None:
    """Have it stop. With `wait`, return when it has: it hangs up then, without an answer."""
    try:
        ask(path, "stop", timeout=None if wait else ANSWER_TIMEOUT, wait=wait)
    except CommandError:
        if not wait or path.exists():
            raise


def find(runtime_directory: str | None, pid: int | None = None) -> Path:
    """Return the control socket of the only obworker there is, or of the one with that pid.

    Raises:
        UsageError: there is none, or there are several; the message lists them.
    """
    running = _running(runtime_directory)
    chosen = [one for one in running if pid is None or one.pid == pid]
    if len(chosen) == 1:
        return chosen[0].path
    if not running:
        raise UsageError(
            "no obworker of yours is running",
            hint="--control-socket says where to look; obworker runs as another user?",
        )
    which = "several obworkers are running" if chosen else f"no obworker has pid {pid}"
    raise UsageError("; ".join([which, *map(str, running)]), hint="give --pid or --control-socket")


def _running(runtime_directory: str | None) -> list[Running]:
    user = os.getuid()
    places = rendezvous.directories(runtime_directory, user)
    found = (_identify(path) for path in rendezvous.socket_paths(places, user))
    return sorted((one for one in found if one is not None), key=lambda one: one.path)


def _identify(path: Path) -> Running | None:
    """Ask who listens at `path`, if anybody; without an answer, the file's name may be its pid."""
    try:
        status = ask(path, "status", timeout=FIND_TIMEOUT)
    except UsageError:
        return None
    except CommandError:
        return Running(path, int(path.stem) if path.stem.isdecimal() else None, None)
    return Running(path, status["pid"], status["model"])
