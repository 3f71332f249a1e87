"""What the commands that come through the control socket do to a master."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from obworker.errors import LoadError
from obworker.supervisor import health, linux
from obworker.supervisor.control import Request
from obworker.supervisor.scoreboard import MAX_SLOTS, Scoreboard, SeatRow


class Commanded(Protocol):
    """A master, as commands see it."""

    def reload(self, answer: Callable[[str], None] | None = None) -> None:
        """Load anew; `answer` learns why that failed, or gets an empty text."""

    def resize(self, size: int) -> None:
        """Want so many workers."""

    def terminate(self) -> None:
        """Stop gracefully."""


class Commands:
    """Answers the requests of the control socket."""

    def __init__(self, master: Commanded, board: Scoreboard) -> None:
        self._master = master
        self._board = board

    def __call__(self, request: Request) -> None:
        """Do what a request asks for."""
        act = {
            "status": self._status,
            "reload": self._reload,
            "scale": self._scale,
            "stop": self._stop,
            "stacks": self._stacks,
        }[request.command]
        act(request)

    def _status(self, request: Request) -> None:
        request.reply(health.report(self._board, time.monotonic()))

    def _reload(self, request: Request) -> None:
        def answer(failure: str) -> None:
            if failure:
                request.fail(f"reload failed: {failure}", LoadError.exit_code)
            else:
                request.reply({"generation": self._board.header.generation})

        if request.arguments["wait"]:
            self._master.reload(answer)
        else:
            self._master.reload()
            request.reply({})

    def _scale(self, request: Request) -> None:
        wanted: int = request.arguments["workers"]
        if 1 <= wanted <= MAX_SLOTS:
            self._master.resize(wanted)
            request.reply({"workers": wanted})
        else:
            request.fail(f"{wanted} is not a number of workers from 1 to {MAX_SLOTS}")

    def _stop(self, request: Request) -> None:
        self._master.terminate()
        if not request.arguments["wait"]:
            request.reply({})  # one that waits is answered by the end of the connection

    def _stacks(self, request: Request) -> None:
        slot: int = request.arguments["slot"]
        pids = [row.pid for row in self._rows(slot) if row.pid]
        for pid in pids:
            linux.signal_process(pid, linux.DUMP_SIGNAL)
        if pids:
            request.reply({"pid": pids[0]})
        else:
            request.fail(f"there is no worker in slot {slot}")

    def _rows(self, slot: int) -> Sequence[SeatRow]:
        return self._board.seats(slot) if 0 <= slot < self._board.header.slots else ()
