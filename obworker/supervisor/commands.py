"""Carries out the commands of the control socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from obworker.errors import LoadError
from obworker.supervisor import health
from obworker.supervisor.control import Request
from obworker.supervisor.scoreboard import Scoreboard


def nobody(_failure: str) -> None:
    """Ignore the outcome: for a reload that was asked for by a signal."""


class Commanded(Protocol):
    """A master, as commands see it."""

    def reload(self, answer: Callable[[str], None] = nobody) -> None:
        """Load anew; `answer` gets the reason if that fails, else an empty text."""

    def resize(self, size: int) -> str:
        """Want so many workers; return why that cannot be, else an empty text."""

    def show_stacks(self, slot: int) -> list[str]:
        """Have the processes of a slot, and a current import, log their stacks; return which."""

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

        self._master.reload(answer)
        if not request.arguments["wait"]:
            request.reply({})  # no effect if it has failed already: only the first answer counts

    def _scale(self, request: Request) -> None:
        wanted: int = request.arguments["workers"]
        failure = self._master.resize(wanted)
        if failure:
            request.fail(failure)
        else:
            request.reply({"workers": wanted})

    def _stop(self, request: Request) -> None:
        self._master.terminate()
        if not request.arguments["wait"]:
            request.reply({})  # with wait, the end of the connection is the answer

    def _stacks(self, request: Request) -> None:
        slot: int = request.arguments["slot"]
        shown = self._master.show_stacks(slot)
        if shown:
            request.reply({"shown": shown})
        else:
            request.fail(f"nothing in slot {slot} can show its stacks")
