"""Notices a process that the user's code forked, and that comes back from it.

By an exception, sys.exit() or a return it would go on as the process that forked it, with all that
has: tell the master of itself, answer clients, serve beside it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from obworker.supervisor import linux

logger = logging.getLogger("obworker.worker")

EXIT_CAME_BACK = 1

# One entry for each fork by which this process came about. It tells a process from the one that
# forked it, as their ids would, but to ask for those is a system call for each request.
_forks: list[None] = []
os.register_at_fork(after_in_child=lambda: _forks.append(None))


class Origin:
    """The process in which it is made; `code` is what of the user's may fork from now on."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._forks = len(_forks)

    def end_others(self) -> None:
        """End this process, if it is another."""
        if len(_forks) != self._forks:
            logger.error(
                "a process that %s forked came back from it: it must use os._exit()", self._code
            )
            linux.leave(EXIT_CAME_BACK)


@contextlib.contextmanager
def one_process(code: str) -> Iterator[None]:
    """Run `code` of the user's, and have nobody come back from it but this process."""
    origin = Origin(code)
    try:
        yield
    finally:
        origin.end_others()
