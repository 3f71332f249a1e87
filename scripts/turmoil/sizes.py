"""More workers, fewer, and none for a while."""

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
    """What who scales does."""

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
        """Say how many."""
        self.scale_to(self._scene.random.randint(1, MOST_WORKERS))

    def scale_to(self, workers: int) -> None:
        """Say that there are to be so many."""
        self._scene.command("scale", str(workers))
        self._expect(workers)

    def pause(self) -> None:
        """Send all workers away, and call them back when the server says that it has none."""
        server, absences = self._scene.server, self._scene.absences
        absences.begin((worker.pid for worker in server.processes("worker")), paused=True)
        server.signal(signal.SIGWINCH)
        eventually(lambda: not server.report()["ready"], PAUSE_SECONDS, "unreadiness in a pause")
        time.sleep(self._scene.random.uniform(0, LONGEST_PAUSE))
        absences.end_pause()
        self._resume()
        eventually(lambda: server.report()["ready"], PAUSE_SECONDS, "readiness after a pause")

    def _resume(self) -> None:
        """Call all workers back, or a single one."""
        if self._scene.random.random() < 0.5:
            self._scene.server.signal(signal.SIGHUP)
            self._expect(self._workers)
        else:
            self._scene.server.signal(signal.SIGTTIN)
            self._expect(1)

    def check(self) -> None:
        """See that there are to be as many workers as were asked for last."""
        self._expect(self._workers)

    def _expect(self, workers: int) -> None:
        """Wait until so many are wanted: a signal may take a moment, and two at once be one."""
        self._workers = workers
        what = f"{workers} workers wanted"
        eventually(
            lambda: self._scene.server.report()["workers"]["wanted"] == workers,
            WANTED_SECONDS,
            what,
        )
