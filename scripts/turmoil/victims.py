"""Processes that are killed, ended or stopped for a while."""

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
    """What happens to the processes of a service."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._server = scene.server
        self._frozen: dict[psutil.Process, threading.Timer] = {}

    def kill_mold(self) -> None:
        """Kill what forks the workers."""
        for mold in self._server.processes("mold"):
            mold.kill()

    def kill_admin(self) -> None:
        """Kill what answers probes."""
        for admin in self._server.processes("admin"):
            self._scene.ledger.kills.append(self._server.kill(admin))

    def kill_worker(self) -> None:
        """Kill a worker, with what it holds."""
        if worker := self._any_worker():
            self._scene.absences.begin([worker.pid])
            self._scene.ledger.kills.append(self._server.kill(worker))

    def end_worker(self) -> None:
        """Send a worker TERM: it loses nothing."""
        if worker := self._any_worker():
            self._scene.absences.begin([worker.pid])
            worker.terminate()

    def freeze_worker(self) -> None:
        """Stop a worker for a while; other things are done meanwhile."""
        if worker := self._any_worker():
            now, seconds = time.monotonic(), self._scene.random.uniform(0.1, LONGEST_FREEZE)
            worker.send_signal(signal.SIGSTOP)
            self._scene.ledger.spells.append(Spell(now, now + seconds))
            timer = threading.Timer(seconds, self._thaw, [worker])
            self._frozen[worker] = timer
            timer.start()

    def thaw_all(self) -> None:
        """Have all go on that are stopped."""
        for timer in list(self._frozen.values()):
            timer.join()

    def _thaw(self, worker: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGCONT)
        time.sleep(UNWRITTEN_SECONDS)
        del self._frozen[worker]

    def _any_worker(self) -> psutil.Process | None:
        """Return one that is not, nor just was, stopped: it may owe the access log its lines."""
        awake = [one for one in self._server.processes("worker") if one not in self._frozen]
        return self._scene.random.choice(awake) if awake else None
