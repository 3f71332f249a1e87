"""The id of each request: the one that it came with, else one of our own."""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING

from obworker.request_context import ID_FIELD, PLATFORM_ID_FIELD, given_id

if TYPE_CHECKING:
    from obworker.http.environ import Environ


class RequestIds:
    """Gives ids to requests; make it after the last fork, or processes would give the same ids.

    An id of our own is a random prefix, drawn once, and a count.
    """

    def __init__(self) -> None:
        named = f"{secrets.token_hex(8)}-%x".__mod__
        self._make = map(named, itertools.count(1)).__next__

    def assign(self, environ: Environ) -> str:
        """Return the id of a request, and make it the X-Request-ID in its environ."""
        is_named = ID_FIELD in environ or PLATFORM_ID_FIELD in environ  # mostly not: spare a call
        environ[ID_FIELD] = id_ = (is_named and given_id(environ)) or self._make()
        return id_
