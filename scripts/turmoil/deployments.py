"""New code, good and bad, and the ways to have it served."""

from __future__ import annotations

import signal
import time

from turmoil.modes import FAILURE, SLOW_IMPORT
from turmoil.scene import Scene

RELOAD_FAILED = 4


class Deployments:
    """What who deploys does."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._server = scene.server

    def hup(self) -> None:
        """Deploy and send HUP."""
        self._put()
        self._server.signal(signal.SIGHUP)

    def hup_twice(self) -> None:
        """Send HUP again while the first reload is on its way."""
        self.hup()
        time.sleep(self._scene.random.uniform(0, 0.1))
        self._server.signal(signal.SIGHUP)

    def hup_slow(self) -> None:
        """Deploy code that takes a while to import, and other code before it has."""
        self._put(at_import=SLOW_IMPORT)
        self._server.signal(signal.SIGHUP)
        time.sleep(self._scene.random.uniform(0, 1))
        self._put()

    def hup_broken(self) -> None:
        """Have code loaded that takes a while to fail, and repair it meanwhile."""
        self._put(at_import=f"{SLOW_IMPORT}\n{FAILURE}")
        self._server.signal(signal.SIGHUP)
        time.sleep(self._scene.random.uniform(0, 0.5))
        self._put()

    def reload(self) -> None:
        """Deploy and wait for the outcome."""
        self._put()
        self._scene.command("reload", "--wait")

    def reload_broken(self) -> None:
        """Deploy what cannot be served, wait for the outcome, and repair it."""
        self._server.put(self._scene.mode.broken(self._scene.random))
        self._scene.command("reload", "--wait", code=RELOAD_FAILED)
        self._put()

    def _put(self, at_import: str = "") -> None:
        self._server.put(self._scene.mode.code(at_import=at_import))
