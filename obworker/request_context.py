"""Which request the current context is about, by its id; and the id that a request came with."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

# Where a WSGI environ has the id that the client, or the platform in front, gave a request.
ID_FIELD, PLATFORM_ID_FIELD = "HTTP_X_REQUEST_ID", "HTTP_X_OPENBAYES_SERVING_REQUEST_ID"

_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_current_id: ContextVar[str] = ContextVar("obworker_request_id", default="")


def request_id() -> str:
    """Return the id of the current request; it is empty outside of a request.

    A thread that you start belongs to the request if it runs in a copy of its context
    (`contextvars.copy_context().run`).
    """
    return _current_id.get()


# Sets the id of the request in the current context.
set_request_id = _current_id.set


@contextlib.contextmanager
def about_request(id_: str) -> Iterator[None]:
    """Set the id of a request for what is logged meanwhile, outside of its context."""
    token = _current_id.set(id_)
    try:
        yield
    finally:
        _current_id.reset(token)


def given_id(environ: Mapping[str, Any]) -> str:
    """Return the id that a request came with, or "" if it has none that is safe.

    An id is safe if it can be written to a line of the log or to a header.
    """
    given = (environ.get(field, "") for field in (ID_FIELD, PLATFORM_ID_FIELD))
    return next(filter(_SAFE_ID.fullmatch, given), "")
