"""What each request is called, by its client or else by us."""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING

from obworker.log import safe_id

if TYPE_CHECKING:
    from obworker.http.environ import Environ

FIELD = "HTTP_X_REQUEST_ID"
# What the platform in front of openbayes-serving sends.
FIELD_OF_PLATFORM = "HTTP_X_OPENBAYES_SERVING_REQUEST_ID"


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
        is_named = FIELD in environ or FIELD_OF_PLATFORM in environ
        environ[FIELD] = id_ = (is_named and _given(environ)) or self._make()
        return id_


def _given(environ: Environ) -> str:
    return safe_id(environ.get(FIELD, "")) or safe_id(environ.get(FIELD_OF_PLATFORM, ""))
