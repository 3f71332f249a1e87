"""Cross-origin resource sharing: which web pages may use the service (the Fetch standard, 3.2).

A browser lets a page of another origin read a response only if the response allows it. So every
response does, errors too: otherwise the page would not even see the status. Before a request that
no HTML form could send, such as one with JSON, the browser asks for permission by a *preflight*, an
OPTIONS request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obworker.http.environ import Environ
    from obworker.http.response import Headers
    from obworker.settings import Settings

METHODS = "GET, HEAD, POST"
# Fields that a page may read beside the usual ones: the id of a failed request, when to try again.
EXPOSED = "X-Request-ID, Retry-After"
MAX_AGE = 7200
"""Seconds for which a browser need not ask again; Chromium allows no more."""


class Cors:
    """Knows the origins whose pages may use the service."""

    def __init__(self, origins: str) -> None:
        """Take a list with commas, or * for any; browsers write origins in lower case."""
        self._allows_any = origins == "*"
        self._origins = frozenset(origins.lower().split(","))

    @classmethod
    def of(cls, settings: Settings) -> Cors | None:
        """Take the origins from the settings, if there are any."""
        return None if settings.cors_origin is None else cls(settings.cors_origin)

    def fields(self, environ: Environ) -> Headers:
        """Return the fields by which the response to a request tells a browser what it may do.

        Where they differ by origin, Vary tells caches so (RFC 9110 12.5.5).
        """
        if self._allows_any:
            return [
                ("Access-Control-Allow-Origin", "*"),
                ("Access-Control-Expose-Headers", EXPOSED),
            ]
        origin = environ.get("HTTP_ORIGIN")
        if origin not in self._origins:
            return [("Vary", "Origin")]
        return [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", EXPOSED),
            ("Vary", "Origin"),
        ]

    def preflight(self, environ: Environ) -> Headers | None:
        """Return the fields that answer a preflight, beside `fields`; None for another request.

        A preflight has no credentials, so it must be answered before API keys are checked.
        """
        is_preflight = (
            environ["REQUEST_METHOD"] == "OPTIONS"
            and "HTTP_ORIGIN" in environ
            and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        )
        if not is_preflight:
            return None
        # A predictor may look at any header, so a page may send any.
        headers = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS")
        return [
            ("Access-Control-Allow-Methods", METHODS),
            *([("Access-Control-Allow-Headers", headers)] if headers else []),
            ("Access-Control-Max-Age", str(MAX_AGE)),
        ]
