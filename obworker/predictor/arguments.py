"""The arguments of predict, each made from the WSGI environ when predict asks for it."""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Request

from obworker.errors import BadRequest
from obworker.predictor import payload

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    Release = Callable[[], object]


log = logging.getLogger("obworker.predictor")


class Call:
    """One call of predict: its environ, its body once read, and what to release afterwards."""

    __slots__ = ("_body", "_start", "environ", "releases")

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.environ = environ
        self._body: bytes | None = None
        self._start: Callable[..., Any] | None = None
        self.releases: list[Release] = []

    @property
    def body(self) -> bytes:
        """The whole body; stays readable for a Request made of the same environ."""
        if self._body is None:
            stream = self.environ["wsgi.input"]
            if type(stream) is io.BytesIO:  # our own server's: the body is there without reading
                self._body = stream.getvalue()
            else:
                self._body = _read(self.environ)
                self.environ["wsgi.input"] = io.BytesIO(self._body)
        return self._body

    @property
    def content_type(self) -> str:
        """The request's Content-Type, empty if there is none."""
        return self.environ.get("CONTENT_TYPE", "")  # type: ignore[no-any-return]

    def on_start(self, start: Callable[..., Any]) -> None:
        """Have `start` called in place of start_response, which is its first argument."""
        self._start = start

    def starting(self, start_response: StartResponse) -> StartResponse:
        """Return what is to be called as start_response."""
        return start_response if self._start is None else partial(self._start, start_response)

    def on_release(self, release: Release) -> None:
        """Have `release` called when the reply is complete."""
        self.releases.append(release)

    def release(self) -> None:
        """Call all releases, the last first; may be called again.

        An error in one, which only the user's code can cause, does not keep the others from being
        called.
        """
        while self.releases:
            try:
                self.releases.pop()()
            except Exception:  # noqa: PERF203  # see above
                log.exception("the end of a request failed")


class Headers(dict[str, str]):
    """Request headers in their usual spelling (``Content-Type``), found by any spelling."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(canonical(name))

    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(canonical(name), value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(canonical(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(canonical(name))

    def get(self, name: str, default: Any = None, type: Callable[[str], Any] | None = None) -> Any:
        """Return the value of `name` as a `type`; `default` if missing or not convertible."""
        try:
            return self[name] if type is None else type(self[name])
        except (KeyError, ValueError):
            return default

    def getlist(self, name: str) -> list[str]:
        """Return a list with the value of `name`, in which several are joined by commas."""
        return [self[name]] if name in self else []

    def pop(self, name: str, /, *default: Any) -> Any:
        """Remove `name` and return its value."""
        return super().pop(canonical(name), *default)

    def setdefault(self, name: str, default: str = "", /) -> str:
        """Return the value of `name`, after setting it to `default` if it is missing."""
        return super().setdefault(canonical(name), default)

    def update(self, *others: Any, **more: str) -> None:
        """Set all fields that a dict made from the arguments has."""
        super().update({canonical(name): value for name, value in dict(*others, **more).items()})

    def __ior__(self, other: Any) -> Headers:  # type: ignore[override,misc]  # noqa: PYI034
        self.update(other)
        return self

    def copy(self) -> Headers:
        """Return a copy."""
        return Headers(self)


@functools.lru_cache(maxsize=1024)  # bounded: a client chooses what is in here
def canonical(name: str) -> str:
    """Return a header's name in its usual spelling."""
    return name.title()


def resolvers(make_request: Callable[[Call], object]) -> dict[str, Callable[[Call], object]]:
    """Return the function that finds each argument that predict may ask for, by name."""
    return {
        "json": lambda call: payload.parse(call.content_type, call.body),
        "payload": lambda call: payload.parse_or_bytes(call.content_type, call.body),
        "data": lambda call: call.body,
        "params": _params,
        "args": _params,
        "headers": _headers,
        "request": make_request,
    }


def _read(environ: WSGIEnvironment) -> bytes:
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        return stream.read(-1)  # type: ignore[no-any-return]
    text = environ.get("CONTENT_LENGTH") or "0"
    if not (text.isascii() and text.isdecimal()):
        raise BadRequest("Content-Length is not a number")
    length = int(text)
    body: bytes = stream.read(length) if length else b""
    if len(body) < length:
        raise BadRequest(f"the body ended after {len(body)} of {length} bytes")
    return body


def _params(call: Call) -> MultiDict[str, str]:
    query: str = call.environ.get("QUERY_STRING", "")
    if not query.isascii():  # PEP 3333 gives bytes as latin-1; clients send UTF-8
        query = query.encode("latin-1").decode("utf-8", "replace")
    return MultiDict(parse_qsl(query, keep_blank_values=True, errors="replace"))


def _headers(call: Call) -> Headers:
    headers = Headers()
    for key, value in call.environ.items():
        if key.startswith("HTTP_"):
            headers[key[5:].replace("_", "-")] = value
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):  # the two that CGI gives no prefix
        if call.environ.get(key):
            headers[key.replace("_", "-")] = call.environ[key]
    return headers


def plain_request(call: Call) -> object:
    """Return Werkzeug's Request, which Flask's is built on."""
    return Request(call.environ)
