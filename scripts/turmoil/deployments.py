"""Deploys new code, good and bad, and reloads the server in different ways."""

from __future__ import annotations

import signal
import time

from turmoil.modes import FAILURE, SLOW_IMPORT
from turmoil.scene import Scene

RELOAD_FAILED = 4


class Deployments:
    """The operations of somebody who deploys code."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._server = scene.server

    def hup(self) -> None:
        """Deploy and send HUP."""
        self._put()
        self._server.signal(signal.SIGHUP)

    def hup_twice(self) -> None:
        """Send HUP again while the first reload is still in progress."""
        self.hup()
        time.sleep(self._scene.random.uniform(0, 0.1))
        self._server.signal(signal.SIGHUP)

    def hup_slow(self) -> None:
        """Deploy code that takes a while to import, and replace it before the import is over."""
        self._put(at_import=SLOW_IMPORT)
        self._server.signal(signal.SIGHUP)
        time.sleep(self._scene.random.uniform(0, 1))
        self._put()

    def hup_broken(self) -> None:
        """Reload onto code whose import fails after a while, and repair the code meanwhile."""
        self._put(at_import=f"{SLOW_IMPORT}\n{FAILURE}")
        self._server.signal(signal.SIGHUP)
        time.sleep(self._scene.random.uniform(0, 0.5))
        self._put()

    def reload(self) -> None:
        """Deploy, and wait until the reload has succeeded."""
        self._put()
        self._scene.command("reload", "--wait")

    def reload_broken(self) -> None:
        """Deploy code that cannot be served, wait until the reload has failed, and repair it."""
        self._server.put(self._scene.mode.broken(self._scene.random))
        self._scene.command("reload", "--wait", code=RELOAD_FAILED)
        self._put()

    def _put(self, at_import: str = "") -> None:
        self._server.put(self._scene.mode.code(at_import=at_import))
