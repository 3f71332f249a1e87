"""What each request is called, by its client or else by us."""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING

from obworker.log import ID_FIELD, PLATFORM_ID_FIELD, given_id

if TYPE_CHECKING:
    from obworker.http.environ import Environ


class RequestIds:
    """Names requests; make it after the last fork, or two processes would give the same names.

    An id that is made consists of a prefix, which is drawn once, and a count.
    """

    def __init__(self) -> None:
        named = f"{secrets.token_hex(8)}-%x".__mod__
        self._make = map(named, itertools.count(1)).__next__

    def assign(self, environ: Environ) -> str:
        """Return the id of a request, which is its X-Request-ID from now on.

        It is the client's where that can stand in a line of a log and in a header.
        """
        is_named = ID_FIELD in environ or PLATFORM_ID_FIELD in environ  # mostly not: spare a call
        environ[ID_FIELD] = id_ = (is_named and given_id(environ)) or self._make()
        return id_
