"""Where the control socket of a master is, and how commands find it.

The master uses the first directory that it may use. Commands look in all of them, because they may
run in another environment than the service: a shell has XDG_RUNTIME_DIR, a systemd unit has not. A
directory that belongs to another user, or to which others may write, is not used by either.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from obworker.kernel_files import state_of

SUFFIX = ".sock"
CONNECT_TIMEOUT = 2.0
CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid; unix(7)


def directories(runtime_directory: str | None, user: int) -> list[Path]:
    """Return the directories where control sockets can be, the best first."""
    found = [Path(runtime_directory, "obworker")] if runtime_directory else []
    return [*found, Path("/run/obworker"), Path(f"/tmp/obworker-{user}")]  # noqa: S108 see is_safe


def prepare(candidates: list[Path], user: int) -> Path | None:
    """Return the first directory that exists or can be made, and is safe; None if there is none.

    Its parent must exist: an XDG_RUNTIME_DIR outlives its session in the environment of daemons.
    """
    for directory in candidates:
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
            if is_safe(directory, user) and os.access(directory, os.W_OK):
                return directory
    return None


def is_safe(directory: Path, user: int) -> bool:
    """Whether it is a directory, and no link, to which only `user` can write."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022


def socket_paths(candidates: list[Path], user: int) -> Iterator[Path]:
    """Find the sockets in safe directories, in no order that means anything."""
    for directory in {path.resolve() for path in candidates if is_safe(path, user)}:
        yield from directory.glob(f"*{SUFFIX}")


def connect(path: Path, timeout: float | None) -> socket.socket:
    """Connect to a control socket.

    Raises:
        OSError: nobody listens there, or it is not permitted.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def listener_of(connection: socket.socket) -> int:
    """Return the pid of the listening process; 0 if it is in another pid namespace."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid: int = CREDENTIALS.unpack(credentials)[0]
    return pid


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal (proc_pid_stat(5))."""
    return state_of(pid) == "T"


def remove_stale(directory: Path) -> None:
    """Remove the sockets of masters that were killed.

    Only if nobody answers and no process has the pid: a master that has just bound its socket does
    not listen yet, and the pid of one in another pid namespace says nothing here.
    """
    for path in directory.glob(f"*{SUFFIX}"):
        if path.stem.isdecimal() and not _runs(int(path.stem)) and _refuses(path):
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _refuses(path: Path) -> bool:
    try:
        connect(path, CONNECT_TIMEOUT).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
