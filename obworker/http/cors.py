"""Cross-origin resource sharing: which web pages may use the service (the Fetch standard, 3.2).

A browser lets a page read a response only where the response says so; and before a request that no
form could send, such as one with JSON, it asks for leave by a *preflight*, an OPTIONS request. So
every response says so, errors too, or the page would not even see their status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obworker.http.environ import Environ
    from obworker.http.response import Headers
    from obworker.settings import Settings

METHODS = "GET, HEAD, POST"
# Beyond what a page may read anyway: how to name a failed request, and when to try again.
EXPOSED = "X-Request-ID, Retry-After"
MAX_AGE = 7200
"""Seconds for which a browser need not ask again; Chromium takes no more."""


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
        """Return what the response to a request says to a browser.

        Where it is not the same for every origin, a cache is told (RFC 9110 12.5.5).
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
        """Return what is to be said beside `fields` where a request is a preflight, else None.

        It comes without credentials, so it must be answered before anybody asks for them.
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
