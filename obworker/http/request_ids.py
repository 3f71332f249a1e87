"""What each request is called, by its client or else by us."""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING

from obworker.log import safe_id

if TYPE_CHECKING:
    from obworker.http.environ import Environ

# The second is what the platform in front of openbayes-serving sends.
FIELDS = ("HTTP_X_REQUEST_ID", "HTTP_X_OPENBAYES_SERVING_REQUEST_ID")


class RequestIds:
    """Names requests; make it after the last fork, or two processes would give the same names.

    An id that is made consists of a prefix, which is drawn once, and a count.
    """

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8) + "-"
        self._count = itertools.count(1).__next__

    def assign(self, environ: Environ) -> str:
        """Return the id of a request, which is its X-Request-ID from now on.

        It is the client's where that can stand in a line of a log and in a header.
        """
        for field in FIELDS:
            if field in environ and (id_ := safe_id(environ[field])):
                break
        else:
            id_ = f"{self._prefix}{self._count():x}"
        environ["HTTP_X_REQUEST_ID"] = id_
        return id_
