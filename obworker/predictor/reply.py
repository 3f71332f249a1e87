"""Turns what predict returned into a content type and a body."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from obworker.predictor import accept as negotiation
from obworker.predictor.encoding import BYTES, ReplyError, to_json, to_msgpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"
# The usual types, which are known to be no stream, no coroutine and no WSGI callable.
PLAIN = frozenset({dict, list, tuple, str, int, float, bool, type(None), *BYTES})
SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


def is_stream(value: object) -> TypeGuard[Iterator[object]]:
    """Return whether `value` is an iterator, such as a generator."""
    return hasattr(type(value), "__next__")


def is_wsgi(value: object) -> TypeGuard[WSGIApplication]:
    """Return whether `value` is a WSGI application, as a Response of Flask or Werkzeug is."""
    return callable(value) and not isinstance(value, type)


def call_wsgi(
    application: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Call a WSGI application.

    Raises:
        ReplyError: it is none, such as a method that predict forgot to call.
    """
    try:
        return application(environ, start_response)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        kind = type(application).__name__
        raise ReplyError(f"a {kind} that is no WSGI application: {error}") from None


def render(value: object, accept: str) -> tuple[str, bytes]:
    """Return the content type and the body for `value`, neither a stream nor a WSGI callable."""
    if isinstance(value, str):
        return TEXT, value.encode("utf-8", "replace")
    if isinstance(value, BYTES):
        body = bytes(value)
        return recognise(body), body
    media_type = negotiation.choose(accept)
    if media_type == negotiation.JSON:
        return media_type, to_json(value)
    return media_type, to_msgpack(value)


def recognise(body: bytes) -> str:
    """Return the content type by the first bytes of `body`."""
    for signature, media_type in SIGNATURES:
        if body.startswith(signature):
            return media_type
    return BINARY
