"""Notifies systemd: when the service is ready, reloads or stops, and that its loop still runs.

Theory of operation. The protocol is sd_notify(3): lines of NAME=value in a datagram to the socket
in NOTIFY_SOCKET. After each turn of its loop the master passes its condition, and systemd is sent
the difference to what it was sent last. If a datagram could not be sent, the next turn sends it
again: if READY=1 was lost, systemd would kill a service that works.

WATCHDOG=1 is sent by the loop itself: a separate thread would also send it for a loop that hangs.
While the service starts, reloads or stops, systemd's timeout is extended in small steps. The master
has timeouts of its own for all three, so systemd's is only for a master that hangs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from obworker.supervisor.scoreboard import Phase

# Meant for this process only: a child that used them would notify in the name of the service, or
# take other descriptors for sockets.
VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
)

EXTENSION = 30.0
EXTENSION_INTERVAL = 10.0
RETRY_TIME = 1.0


def without_systemd(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without the variables that are not for children."""
    return {name: value for name, value in environ.items() if name not in VARIABLES}


@dataclass(frozen=True)
class Condition:
    """How the service is: `ready` of its `slots` have a worker that serves.

    `failure` says why the last reload failed; it is empty where it did not.
    """

    phase: Phase
    ready: int
    slots: int
    min_ready: int
    generation: int
    failure: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether enough workers serve; `min_ready` above the number of slots means all."""
        return self.ready >= max(1, min(self.min_ready, self.slots))

    @property
    def status(self) -> str:
        """The line that ``systemctl status`` shows."""
        text = f"{self.phase.name.capitalize()}: {self.ready} of {self.slots} workers ready"
        if self.generation:
            text += f", generation {self.generation}"
        if self.failure:
            text += f"; the last reload failed: {' '.join(self.failure.split())}"
        return text


@dataclass(frozen=True)
class Told:
    """What systemd was told, and when it must be told more."""

    watchdog_interval: float | None = None
    phase: Phase = Phase.STARTING
    status: str = ""
    watchdog_due: float = 0.0
    extension_due: float = 0.0

    def due(self, condition: Condition, now: float) -> tuple[str, Told]:
        """Return the datagram that is due, or "", and what systemd was told after that."""
        told = replace(self, phase=self._next_phase(condition), status=condition.status)
        lines = list(_announcement(self.phase, told.phase, now))
        if told.status != self.status:
            lines.append(f"STATUS={told.status}")
        if told.phase is not Phase.SERVING and (
            told.phase != self.phase or now >= self.extension_due
        ):
            lines.append(f"EXTEND_TIMEOUT_USEC={_microseconds(EXTENSION)}")
            told = replace(told, extension_due=now + EXTENSION_INTERVAL)
        if self.watchdog_interval is not None and now >= self.watchdog_due:
            lines.append("WATCHDOG=1")
            told = replace(told, watchdog_due=now + self.watchdog_interval)
        return "\n".join(lines), told

    @property
    def next_due(self) -> float | None:
        """The instant at which something is due even if nothing changes."""
        dues = [] if self.phase is Phase.SERVING else [self.extension_due]
        if self.watchdog_interval is not None:
            dues.append(self.watchdog_due)
        return min(dues, default=None)

    def _next_phase(self, condition: Condition) -> Phase:
        """Return the phase to announce: READY=1 comes first, and nothing after STOPPING=1."""
        if Phase.STOPPING in (self.phase, condition.phase):
            return Phase.STOPPING
        if self.phase is Phase.STARTING:
            return Phase.SERVING if condition.is_ready else Phase.STARTING
        return Phase.RELOADING if condition.phase is Phase.RELOADING else Phase.SERVING


def _announcement(before: Phase, after: Phase, now: float) -> Iterator[str]:
    if after is before:
        return
    if after is Phase.SERVING:
        yield "READY=1"
    elif after is Phase.RELOADING:
        yield "RELOADING=1"
        yield f"MONOTONIC_USEC={_microseconds(now)}"
    elif after is Phase.STOPPING:
        yield "STOPPING=1"


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)


class Notifier:
    """Sends notifications to systemd, if there is one. It never raises and never blocks."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read the variables, if they are meant for this process."""
        self._address = _address(environ)
        self.watchdog_interval = _watchdog_interval(environ) if self._address else None
        self._told = Told(self.watchdog_interval)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def tell(self, condition: Condition, now: float) -> float | None:
        """Tell systemd what is due; return the instant by which to call again.

        To be called after each turn of the loop; None means when something changes.
        """
        if self._address is None:
            return None
        datagram, told = self._told.due(condition, now)
        if datagram and not self._send(self._address, datagram):
            return now + RETRY_TIME
        self._told = told
        return told.next_due

    def close(self) -> None:
        """Hang up."""
        self._address = None
        self._socket.close()

    def _send(self, address: str, datagram: str) -> bool:
        try:
            self._socket.sendto(datagram.encode("utf-8", "replace"), address)
        except OSError:  # its queue is full, or it is gone
            return False
        return True


def _address(environ: Mapping[str, str]) -> str | None:
    """Return a path or an abstract name; vsock: is for a virtual machine's first process."""
    where = environ.get("NOTIFY_SOCKET", "")
    if where.startswith("@"):
        return "\0" + where[1:]
    return where if where.startswith("/") else None


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return half of what systemd waits for, as sd_watchdog_enabled(3) advises."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 2_000_000 if text.isdecimal() and int(text) > 0 else None
