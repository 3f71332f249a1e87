"""Who is let in, decided before a request waits for anything.

Refusals and CORS preflights are answered on the event loop's thread by tiny WSGI applications, so
they are framed, logged and given an id like every other response.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obworker.http.api_keys import ApiKeys
    from obworker.http.cors import Cors
    from obworker.http.cycle import Application, StartResponse
    from obworker.http.environ import Environ
    from obworker.http.response import Headers

UNAUTHORIZED = (
    b'{"error":"Unauthorized: send an API key as Authorization: Bearer KEY or X-API-Key: KEY"}'
)


class Access:
    """Decides which requests are let in; `is_open` says by method and path which need no key.

    Where it `asks_nothing`, every request is let in and no response gets extra fields.
    """

    def __init__(
        self, keys: ApiKeys | None, cors: Cors | None, is_open: Callable[[str, str], bool]
    ) -> None:
        self._keys = keys
        self._cors = cors
        self._is_open = is_open
        self.asks_nothing = keys is None and cors is None

    def fields(self, environ: Environ) -> Headers:
        """Return the fields that every response to this request has, errors included."""
        return () if self._cors is None else self._cors.fields(environ)

    def answerer(self, environ: Environ) -> Application | None:
        """Return what answers the request at once where it must go no further, else None."""
        preflight = None if self._cors is None else self._cors.preflight(environ)
        if preflight is not None:
            return _answer_preflight(preflight)
        if self._keys is None or self._is_open(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
            return None
        return None if self._keys.accepts(environ) else _refuse


def _answer_preflight(fields: Headers) -> Application:
    def answer(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("204 No Content", fields)
        return []

    return answer


def _refuse(_environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Ask for a key (RFC 9110 11.6.1)."""
    fields = [("Content-Type", "application/json"), ("WWW-Authenticate", "Bearer")]
    start_response("401 Unauthorized", fields)
    return [UNAUTHORIZED]
