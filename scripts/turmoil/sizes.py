"""Changes how many workers there are: more, fewer, and none for a while."""

from __future__ import annotations

import signal
import time

from scorecards.waiting import eventually

from turmoil.scene import Scene

MOST_WORKERS = 4
PAUSE_SECONDS = 40.0
LONGEST_PAUSE = 1.5
WANTED_SECONDS = 10.0


class Sizes:
    """The operations of somebody who scales the service."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._workers = scene.server.options.workers

    def one_more(self) -> None:
        """Send TTIN."""
        if self._workers < MOST_WORKERS:
            self._scene.server.signal(signal.SIGTTIN)
            self._expect(self._workers + 1)

    def one_fewer(self) -> None:
        """Send TTOU; the last one stays."""
        self._scene.server.signal(signal.SIGTTOU)
        self._expect(max(self._workers - 1, 1))

    def scale(self) -> None:
        """Run `obworker scale` with a random number."""
        self.scale_to(self._scene.random.randint(1, MOST_WORKERS))

    def scale_to(self, workers: int) -> None:
        """Run `obworker scale` with this number of workers."""
        self._scene.command("scale", str(workers))
        self._expect(workers)

    def pause(self) -> None:
        """Send all workers away with WINCH, wait until the server has none, and bring them back."""
        server, absences = self._scene.server, self._scene.absences
        absences.begin((worker.pid for worker in server.processes("worker")), paused=True)
        server.signal(signal.SIGWINCH)
        eventually(lambda: not server.report()["ready"], PAUSE_SECONDS, "unreadiness in a pause")
        time.sleep(self._scene.random.uniform(0, LONGEST_PAUSE))
        absences.end_pause()
        self._resume()
        eventually(lambda: server.report()["ready"], PAUSE_SECONDS, "readiness after a pause")

    def _resume(self) -> None:
        """Bring all workers back with HUP, or a single one with TTIN."""
        if self._scene.random.random() < 0.5:
            self._scene.server.signal(signal.SIGHUP)
            self._expect(self._workers)
        else:
            self._scene.server.signal(signal.SIGTTIN)
            self._expect(1)

    def check(self) -> None:
        """Check that the server still wants as many workers as were asked for last."""
        self._expect(self._workers)

    def _expect(self, workers: int) -> None:
        """Wait until the server wants so many workers.

        The next signal may only be sent after that: two that are sent at once may arrive as one.
        """
        self._workers = workers
        what = f"{workers} workers wanted"
        eventually(
            lambda: self._scene.server.report()["workers"]["wanted"] == workers,
            WANTED_SECONDS,
            what,
        )
