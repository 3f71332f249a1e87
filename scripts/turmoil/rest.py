"""Tells whether a server is at rest: nothing is in progress, and each worker has answered once."""

from __future__ import annotations

from collections.abc import Callable

from turmoil.ledger import Ledger
from turmoil.served import Served


def has_come(server: Served, ledger: Ledger, greet: Callable[[], None]) -> bool:
    """Tell whether the server is at rest; call `greet` while a worker has not answered yet.

    A worker makes some things with its first request, such as an event loop, and keeps them. So
    the descriptors of a worker count only after that.
    """
    if not server.is_whole():
        return False
    workers = {worker.pid for worker in server.processes("worker")}
    is_warm = workers <= {answered.worker for answered in ledger.answered}
    if not is_warm:
        greet()
    return is_warm
