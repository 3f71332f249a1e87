"""Ends a process that the user's code has forked, and that returns into our code.

By an exception, sys.exit() or a return it would go on like its parent, with the same descriptors:
it would send messages to the master, answer clients and serve.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from obworker.printing import open_closed_descriptors
from obworker.supervisor import linux

logger = logging.getLogger("obworker.worker")

EXIT_CAME_BACK = 1

# One entry for each fork between the first process and this one: so a child has one more than its
# parent. Comparing pids would cost a system call for each request.
_forks: list[None] = []
os.register_at_fork(after_in_child=lambda: _forks.append(None))


class Origin:
    """Remembers the process in which it is made; `code` names the user's code that may fork."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._forks = len(_forks)

    def end_others(self) -> None:
        """End this process if it is a fork of the one remembered."""
        if len(_forks) != self._forks:
            logger.error(
                "a process that %s forked came back from it: it must use os._exit()", self._code
            )
            linux.leave(EXIT_CAME_BACK)


@contextlib.contextmanager
def one_process(code: str) -> Iterator[None]:
    """Run the user's code that `code` names; end processes that it has forked when they return.

    A standard stream that it closes is replaced, before a socket gets its number.
    """
    origin = Origin(code)
    try:
        yield
    finally:
        origin.end_others()
        open_closed_descriptors()
