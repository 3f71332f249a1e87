"""Finds out from the kernel which connections a process holds (proc(5))."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def clients_ports(pid: int) -> set[int]:
    """Return the remote ports of the process's TCP connections over IPv4."""
    held = _sockets(pid)
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    # The columns are: sl, local address, remote address (both in hexadecimal), …; the tenth is the
    # inode. A listening socket has the remote port 0.
    return {int(_port(line), 16) for line in lines if line.split()[9] in held} - {0}


def _port(line: str) -> str:
    return line.split()[2].partition(":")[2]


def _sockets(pid: int) -> set[str]:
    """Return the inodes of the process's sockets."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            kind, _, inode = str(descriptor.readlink()).partition(":")
            if kind == "socket":
                found.add(inode.strip("[]"))
    return found
