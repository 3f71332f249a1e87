"""A server at rest: nothing is under way, and each worker has answered something."""

from __future__ import annotations

from collections.abc import Callable

from turmoil.ledger import Ledger
from turmoil.served import Served


def has_come(server: Served, ledger: Ledger, greet: Callable[[], None]) -> bool:
    """Tell whether it has; where a worker has yet to answer something, `greet` asks for that.

    What a worker makes with its first request, such as an event loop, it keeps: one that was made
    a moment ago says nothing of how many descriptors another has.
    """
    if not server.is_whole():
        return False
    workers = {worker.pid for worker in server.processes("worker")}
    is_warm = workers <= {answered.worker for answered in ledger.answered}
    if not is_warm:
        greet()
    return is_warm
