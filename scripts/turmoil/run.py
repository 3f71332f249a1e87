"""A run: clients and an operator at work, first to warm up, then to measure, then the stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from subprocess import TimeoutExpired

from scorecards.servers import Ended
from scorecards.waiting import Late, eventually

from turmoil import access_lines, footprint, rest, verdict
from turmoil.absences import Absences
from turmoil.clients import CROWD, NEW, STREAMED, Client, Kind, Place
from turmoil.footprint import Footprint
from turmoil.ledger import Ledger
from turmoil.modes import Mode
from turmoil.operations import Operator
from turmoil.probes import Prober
from turmoil.scene import Scene
from turmoil.served import Served
from turmoil.verdict import Sorted
from turmoil.watch import Attendance, beat
from turmoil.work import at_work

WARM_UP_PART = 0.25
GREETERS = (NEW,) * 6
GREETING_SECONDS = 0.05
LAST_SECONDS = 1.0
# A slot whose workers were killed repeatedly stays empty for up to 36 s (docs/control.md).
SETTLE_SECONDS = 60.0
START_SECONDS = 20.0
STOP_SECONDS = 60.0
END_SECONDS = 5.0


class Run:
    """The steps of a run in their order.

    The ledger records what happened meanwhile, and `findings` has what was found wrong afterwards.
    """

    def __init__(self, server: Served, mode: Mode, seed: int, *, kills: bool) -> None:
        self.ledger = Ledger()
        self.footprints: list[Footprint] = []
        self.findings: list[str] = []
        self._server = server
        self._seed = seed
        self._kinds: Sequence[Kind] = (*CROWD, STREAMED) if mode.streams else CROWD
        self._scene = Scene(server, mode, Absences(), self.ledger, Random(seed))
        self._operator = Operator(self._scene, kills=kills)
        self._is_closing = threading.Event()
        self._stopped_at = float("inf")

    def go(self, seconds: float) -> Sorted:
        """Do all steps; return the lost requests, sorted by whose fault they are."""
        self._try(lambda: self._disturb(seconds))
        self._try(self._stop)
        return self._judge()

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (Late, Ended, TimeoutExpired, OSError) as error:
            self.ledger.fail(f"{type(error).__name__}: {error}")

    def _disturb(self, seconds: float) -> None:
        self._server.wait_for_log(self._server.listening)
        eventually(self._server.is_whole, START_SECONDS, "readiness")
        for name, part in (("warm", WARM_UP_PART), ("main", 1 - WARM_UP_PART)):
            self._storm(name, part * seconds)
            self._wait_for_rest()
            self.footprints.append(footprint.least(self._server))

    def _wait_for_rest(self) -> None:
        try:
            has_come = partial(rest.has_come, self._server, self.ledger, self._greet)
            eventually(has_come, SETTLE_SECONDS, "rest")
        except Late:
            self.ledger.fail(f"{self._server.now()}")
            raise

    def _storm(self, name: str, seconds: float) -> None:
        chance = Random(f"{self._seed}-{name}")
        prober = Prober(self._scene, self._server.admin_port, chance)
        attendance = Attendance(self._server.count_ready, self.ledger)
        with at_work([*self._crowd(name, self._kinds), prober.run, attendance.run]):
            self._operator.work(seconds)

    def _greet(self) -> None:
        with at_work(self._crowd(f"greeting{len(self.ledger.answered)}", GREETERS)):
            time.sleep(GREETING_SECONDS)

    def _stop(self) -> None:
        """Stop the server under load: it answers what it has accepted, and refuses the rest."""
        if self._server.has_ended:
            raise Ended(f"it ended with {self._server.wait(0)}")
        with at_work(self._crowd("last", self._kinds)):
            time.sleep(LAST_SECONDS)
            self._is_closing.set()
            self._stopped_at = time.monotonic()
            self._server.signal(signal.SIGTERM)
        if code := self._server.wait(STOP_SECONDS):
            self.ledger.fail(f"exit code {code}")
        eventually(lambda: self._server.is_gone, END_SECONDS, "end of all processes")

    def _crowd(self, during: str, kinds: Sequence[Kind]) -> list[Callable[[threading.Event], None]]:
        """Return what the threads do: the clients, and a watch that tells whether they ran."""
        place = Place(self._server.port, self._server.tls, self._is_closing)
        names = [
            (kind, f"{kind.name}-{self._seed}.{during}-{number}")
            for number, kind in enumerate(kinds)
        ]
        clients = (Client(kind, name, place, self.ledger, Random(name)) for kind, name in names)
        return [*(client.run for client in clients), partial(beat, self.ledger)]

    def _judge(self) -> Sorted:
        ledger, lines = self.ledger, access_lines.read(self._server.access_log)
        if not ledger.answered:
            ledger.fail("no request was answered")
        ledger.faults += verdict.slow_faults(ledger.answered, ledger.spells)
        found = self.findings
        found += [f"access log: torn: {line!r}" for line in lines.torn]
        found += verdict.log_faults(lines.ids, ledger.answered, ledger.sent, ledger.kills)
        found += verdict.traceback_faults(self._server.log())
        if len(self.footprints) > 1:
            found += footprint.growth(*self.footprints)
        # A TLS connection cannot move to another worker: a reload closes it (docs/timeouts.md).
        closes_from = 0.0 if self._server.tls else self._stopped_at
        losses = verdict.sort(ledger.losses, ledger.kills, closes_from, lines.ids)
        found += verdict.crossing_faults(losses.crossed, ledger.requests["idle"])
        return losses
