"""All clients together."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

from turmoil.clients import Client, Kind, Place
from turmoil.ledger import Ledger
from turmoil.links import ANSWER_SECONDS


class Crowd:
    """Clients that work until they are told that it is over."""

    def __init__(self, kinds: Sequence[Kind], place: Place, ledger: Ledger, seed: str) -> None:
        self._over = threading.Event()
        self._may_be_refused = threading.Event()
        self._threads = []
        for number, kind in enumerate(kinds):
            name = f"{kind.name}-{seed}-{number}"
            client = Client(kind, name, place, ledger, Random(name))
            arguments = (self._over, self._may_be_refused)
            self._threads.append(threading.Thread(target=client.run, args=arguments, daemon=True))

    def expect_refusal(self) -> None:
        """Take it from now on that nobody may be there for new connections."""
        self._may_be_refused.set()

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after what each client is about."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_SECONDS)


@contextmanager
def at_work(crowd: Crowd) -> Iterator[Crowd]:
    """Let them work meanwhile."""
    crowd.start()
    try:
        yield crowd
    finally:
        crowd.stop()
