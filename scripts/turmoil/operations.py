"""Disturbs the server: random operations, each of which may begin before the last is over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from turmoil import access_lines
from turmoil.deployments import Deployments
from turmoil.scene import Scene
from turmoil.sizes import Sizes
from turmoil.victims import Victims

RESTS = (0.01, 0.05, 0.2, 0.5, 1.0)


class Operator:
    """Carries out random operations; with `kills` it kills workers, too."""

    def __init__(self, scene: Scene, *, kills: bool) -> None:
        self._scene = scene
        self._sizes = Sizes(scene)
        self._victims = Victims(scene)
        self._acts = self._all_acts(kills)

    def work(self, seconds: float) -> None:
        """Disturb the server for so long, then let frozen workers go on and restore its size."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._scene.server.has_ended:
            self._act(self._scene.random.choice(self._acts))
            time.sleep(self._scene.random.choice(RESTS))
        self._victims.thaw_all()
        self._sizes.check()
        self._sizes.scale_to(self._scene.server.options.workers)

    def _act(self, act: Callable[[], None]) -> None:
        self._scene.ledger.operate(act.__name__)
        # the chosen process may have ended by itself before the operation reached it
        with suppress(psutil.NoSuchProcess):
            act()

    def _all_acts(self, kills: bool) -> list[Callable[[], None]]:
        deployments, sizes, victims = Deployments(self._scene), self._sizes, self._victims
        usual = [
            *(deployments.hup, deployments.hup, deployments.hup_twice, deployments.hup_slow),
            *(deployments.hup_broken, deployments.reload, deployments.reload_broken),
            *(sizes.one_more, sizes.one_fewer, sizes.scale, sizes.pause),
            *(victims.end_worker, victims.freeze_worker, self.rotate_log),
        ]
        # A process that is killed too often is replaced only after a while (docs/control.md), in
        # which the run would test little.
        rare = [
            victims.kill_mold,
            victims.kill_admin,
            *([victims.kill_worker] * 3 if kills else []),
        ]
        return [*usual, *usual, *rare]

    def rotate_log(self) -> None:
        """Rename the access log and have it opened again."""
        access_lines.rotate(self._scene.server.access_log)
        self._scene.server.signal(signal.SIGUSR1)
