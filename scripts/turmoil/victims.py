"""Kills, ends and freezes processes of the server."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress

import psutil

from turmoil.scene import Scene
from turmoil.spells import Spell
from turmoil.verdict import UNWRITTEN_SECONDS

LONGEST_FREEZE = 3.0


class Victims:
    """The operations that hit a single process of the service."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._server = scene.server
        self._frozen: dict[psutil.Process, threading.Timer] = {}

    def kill_mold(self) -> None:
        """Kill the process that forks the workers."""
        for mold in self._server.processes("mold"):
            mold.kill()

    def kill_admin(self) -> None:
        """Kill the process that answers probes."""
        for admin in self._server.processes("admin"):
            self._scene.ledger.kills.append(self._server.kill(admin))

    def kill_worker(self) -> None:
        """Kill a worker; the requests that it holds may be lost."""
        if worker := self._any_worker():
            self._scene.absences.begin([worker.pid])
            self._scene.ledger.kills.append(self._server.kill(worker))

    def end_worker(self) -> None:
        """Send a worker TERM; no request may be lost."""
        if worker := self._any_worker():
            self._scene.absences.begin([worker.pid])
            worker.terminate()

    def freeze_worker(self) -> None:
        """Freeze a worker for a while, in which other operations go on."""
        if worker := self._any_worker():
            now, seconds = time.monotonic(), self._scene.random.uniform(0.1, LONGEST_FREEZE)
            worker.send_signal(signal.SIGSTOP)
            self._scene.ledger.spells.append(Spell(now, now + seconds))
            timer = threading.Timer(seconds, self._thaw, [worker])
            self._frozen[worker] = timer
            timer.start()

    def thaw_all(self) -> None:
        """Wait until no worker is frozen any more."""
        for timer in list(self._frozen.values()):
            timer.join()

    def _thaw(self, worker: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGCONT)
        time.sleep(UNWRITTEN_SECONDS)
        del self._frozen[worker]

    def _any_worker(self) -> psutil.Process | None:
        """Return a random worker, or None if there is none to choose.

        A worker that is frozen, or was a moment ago, is left out: it may not have written its lines
        of the access log yet.
        """
        awake = [one for one in self._server.processes("worker") if one not in self._frozen]
        return self._scene.random.choice(awake) if awake else None
