"""A server at rest: nothing is under way, and each worker has answered something."""

from __future__ import annotations

from collections.abc import Callable

from turmoil.ledger import Ledger
from turmoil.served import Served


class Rest:
    """Sees whether it has come; `greet` has some requests answered, by whoever takes them.

    What a worker makes with its first request, such as an event loop, it keeps: one that was made
    a moment ago says nothing of how many descriptors another has.
    """

    def __init__(self, server: Served, ledger: Ledger, greet: Callable[[], None]) -> None:
        self._server = server
        self._ledger = ledger
        self._greet = greet

    def has_come(self) -> bool:
        """Tell whether it has; where a worker has yet to answer something, ask for that."""
        if not self._server.is_whole():
            return False
        workers = {worker.pid for worker in self._server.processes("worker")}
        is_warm = workers <= {answered.worker for answered in self._ledger.answered}
        if not is_warm:
            self._greet()
        return is_warm
