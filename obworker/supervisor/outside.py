"""The interface of a master to the outside: probes, commands and systemd.

It is the same for both kinds of master, that of a predictor.py and that of a start.sh: each fills a
scoreboard, and calls `tend` after each turn of its loop.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from obworker.settings import Settings
from obworker.supervisor import listeners
from obworker.supervisor.admins import Admin, bind_admin
from obworker.supervisor.alarm import earliest
from obworker.supervisor.control import Request, open_control
from obworker.supervisor.listeners import Address
from obworker.supervisor.scoreboard import Phase, Scoreboard
from obworker.supervisor.systemd import Condition, Notifier, without_systemd


@dataclass(frozen=True)
class Surroundings:
    """What the master was started with.

    `lent_admin` is the admin socket from systemd, `metrics` where predictor.py's metrics are kept.
    """

    environ: Mapping[str, str]
    lent_admin: socket.socket | None = None
    metrics: Path | None = None


class Outside:
    """The admin process, the control socket and the line to systemd."""

    def __init__(
        self,
        board: Scoreboard,
        settings: Settings,
        surroundings: Surroundings,
        selector: selectors.BaseSelector,
        on_request: Callable[[Request], None],
    ) -> None:
        """Bind the addresses.

        Raises:
            ListenError: one of them cannot be had.
        """
        environ, lent = surroundings.environ, surroundings.lent_admin
        listener, self.address = (lent, Address.of(lent)) if lent else bind_admin(settings)
        runtime = environ.get("XDG_RUNTIME_DIR")
        with contextlib.ExitStack() as undo:
            if listener is not None:
                undo.callback(listeners.close, listener, lent=lent is not None)
            self._control = open_control(settings.control_socket, runtime, selector, on_request)
            undo.pop_all()
        self.admin = Admin(
            board.descriptor,
            listener,
            without_systemd(environ),
            settings.log_level,
            lent=lent is not None,
            metrics=surroundings.metrics,
        )
        self._board = board
        self._notifier = Notifier(environ)
        self._notify_due: float | None = None

    def start(self, label: str, address: str, now: float) -> None:
        """Describe the service in the scoreboard, and start the admin process."""
        header = self._board.header
        header.master_pid, header.started_at = os.getpid(), now
        header.write_text("label", label)
        header.write_text("address", address)
        self.admin.start(now)

    def tend(self, now: float) -> None:
        """Do what is due, and tell systemd what has changed."""
        self._board.header.beat = now
        self.admin.tend(now)
        if self._control is not None:
            self._control.tend(now)
        self._notify_due = self._notifier.tell(self._condition, now)

    @property
    def _condition(self) -> Condition:
        header = self._board.header
        return Condition(
            phase=Phase(header.phase),
            ready=self._board.count_serving(),
            slots=header.wanted,
            min_ready=header.min_ready,
            generation=header.generation,
            failure=header.read_text("reload_failure"),
        )

    @property
    def next_deadline(self) -> float | None:
        """The moment at which `tend` has something to do."""
        commands_due = None if self._control is None else self._control.next_deadline
        return earliest(self.admin.next_deadline, commands_due, self._notify_due)

    def close(self) -> None:
        """Close all; for clients that wait for the end, this is the answer."""
        if self._control is not None:
            self._control.close()
        self._notifier.close()
