"""What all parts of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from turmoil.absences import Absences
from turmoil.ledger import Ledger
from turmoil.modes import Mode
from turmoil.served import COMMAND_SECONDS, Served


@dataclass(frozen=True)
class Scene:
    """The server, the predictor that it serves, and the records of its state and requests."""

    server: Served
    mode: Mode
    absences: Absences
    ledger: Ledger
    random: Random

    def command(self, *words: str, code: int = 0) -> None:
        """Run one of obworker's commands; record a fault if it exits with another code."""
        ended = self.server.order(*words, within=COMMAND_SECONDS)
        if ended.returncode != code:
            said = ended.stderr.strip()
            self.ledger.fail(f"obworker {' '.join(words)}: {ended.returncode}, not {code}: {said}")
