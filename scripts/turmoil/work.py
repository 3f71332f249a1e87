"""Threads that work while something else is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from turmoil.links import ANSWER_SECONDS

END_SECONDS = 2 * ANSWER_SECONDS


@contextmanager
def at_work(works: Sequence[Callable[[threading.Event], object]]) -> Iterator[None]:
    """Do each in a thread meanwhile; at the end each is told so, and waited for.

    Not where the run is interrupted: its server is killed next, and nobody needs their answers.
    """
    over = threading.Event()
    threads = [threading.Thread(target=work, args=(over,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        threads.clear()
        raise
    finally:
        over.set()
        for thread in threads:
            thread.join(END_SECONDS)
