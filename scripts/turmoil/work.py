"""Runs functions in threads while something else is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from turmoil.links import ANSWER_SECONDS

END_SECONDS = 2 * ANSWER_SECONDS


@contextmanager
def at_work(works: Sequence[Callable[[threading.Event], object]]) -> Iterator[None]:
    """Run each function in a thread while the block runs; then set their event and wait for them.

    An interrupted run does not wait: its server is killed next, and nobody needs the responses.
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
