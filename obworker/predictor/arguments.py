"""What predict may ask for, each made from the WSGI environ and only when asked for."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from werkzeug.datastructures import Headers as ResponseHeaders
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Request

from obworker.errors import BadRequest
from obworker.predictor import payload
from obworker.predictor.traces import is_inside

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask import Flask

    from obworker.predictor.injection import Plan

    Release = Callable[[], object]


log = logging.getLogger("obworker.predictor")

_IMPORTS_FLASK = re.compile(rb"^[^#\n]*\b(from|import)\b[^#\n]*\bflask", re.MULTILINE)


class Call:
    """One call of predict: its environ, its body once read, and what to let go of afterwards."""

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
            if type(stream) is io.BytesIO:  # our own server's: it needs not be read to be known
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
        """Have `start` called in the place of start_response, which it gets first."""
        self._start = start

    def starting(self, start_response: StartResponse) -> StartResponse:
        """Return what is to be called as start_response."""
        return start_response if self._start is None else partial(self._start, start_response)

    def on_release(self, release: Release) -> None:
        """Have `release` called when the reply is complete."""
        self.releases.append(release)

    def release(self) -> None:
        """Let go of everything, the last first; again does nothing.

        Whatever one release raises, which only the user's code can cause, the others follow.
        """
        while self.releases:
            try:
                self.releases.pop()()
            except Exception:  # noqa: PERF203  # the others follow
                log.exception("the end of a request failed")


class Headers(dict[str, str]):
    """Request headers under their usual spelling (``Content-Type``), looked up in any."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(canonical(name))

    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(canonical(name), value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(canonical(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(canonical(name))

    def get(self, name: str, default: Any = None, type: Callable[[str], Any] | None = None) -> Any:
        """Return the value of `name`, made a `type`; `default` where there is none, or it fails."""
        try:
            return self[name] if type is None else type(self[name])
        except (KeyError, ValueError):
            return default

    def getlist(self, name: str) -> list[str]:
        """Return a list of the value of `name`: more than one is joined by commas in it."""
        return [self[name]] if name in self else []

    def pop(self, name: str, /, *default: Any) -> Any:
        """Remove `name` and return its value."""
        return super().pop(canonical(name), *default)

    def setdefault(self, name: str, default: str = "", /) -> str:
        """Return the value of `name`, which is `default` from now on if it had none."""
        return super().setdefault(canonical(name), default)

    def update(self, *others: Any, **more: str) -> None:
        """Set what a dict made of the arguments has."""
        super().update({canonical(name): value for name, value in dict(*others, **more).items()})

    def __ior__(self, other: Any) -> Headers:  # type: ignore[override,misc]  # noqa: PYI034
        self.update(other)
        return self

    def copy(self) -> Headers:
        """Return another with the same fields."""
        return Headers(self)


@functools.lru_cache(maxsize=1024)  # bounded: a client chooses what is in here
def canonical(name: str) -> str:
    """Return a header's name in its usual spelling."""
    return name.title()


def resolvers(make_request: Callable[[Call], object]) -> dict[str, Callable[[Call], object]]:
    """Return for each name that predict may ask for how it is found."""
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


def imports_flask(directory: Path) -> bool:
    """Whether a module in the model's `directory` imports flask: jsonify needs a context.

    Their text tells. The import may stand in a function, and what was imported does not always say
    where it is from: ``flask.request`` does not.
    """
    # Each worker looks through thousands of modules: a path for each takes some milliseconds.
    start = f"{directory}/"
    files = {file for file in map(_file, list(sys.modules.values())) if file.startswith(start)}
    return any(_IMPORTS_FLASK.search(_text(file)) for file in files if is_inside(file, directory))


def _file(module: object) -> str:
    return getattr(module, "__dict__", {}).get("__file__") or ""


def _text(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:  # in an archive, or not there any more
        return b""


def plain_request(call: Call) -> object:
    """Return Werkzeug's Request, which Flask's is built on."""
    return Request(call.environ)


@dataclass(frozen=True)
class FlaskSide:
    """What of Flask a predictor may look for; as it is, without Flask."""

    make_request: Callable[[Call], object] = plain_request
    context: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    """Makes what lets jsonify work where there is no one request."""
    is_there: bool = False

    @classmethod
    def make(cls, directory: Path) -> FlaskSide:
        """Return the side of Flask itself, where it is installed."""
        try:
            from flask import Flask
        except ImportError:
            return cls()
        app = Flask("predictor", root_path=str(directory), static_folder=None)
        return cls(partial(_enter_request, app), app.app_context, is_there=True)

    def prepare_for(self, plan: Plan | None) -> Callable[[Call], object] | None:
        """Return what is to be called before what does not ask for the request."""
        asks = plan is not None and "request" in plan.names
        return self.make_request if self.is_there and not asks else None


def _enter_request(app: Flask, call: Call) -> object:
    """Enter a request's context, until the call is released; return Flask's request."""
    context = app.request_context(call.environ)
    context.push()
    call.on_release(context.pop)
    call.on_start(partial(_run_after_request, app, context))
    return context.request


def _run_after_request(
    app: Flask,
    context: object,
    start_response: StartResponse,
    status: str,
    headers: list[tuple[str, str]],
    *exc_info: Any,
) -> Callable[[bytes], object]:
    """Start the response with what the functions given to after_this_request make of its head.

    The body is made already, and as long as it was.
    """
    functions = getattr(context, "_after_request_functions", [])
    if functions:
        response = app.response_class(status=status)
        response.headers = ResponseHeaders(headers)
        while functions:  # each once, also where one fails
            response = app.ensure_sync(functions.pop(0))(response)
        response.headers.pop("Content-Length", None)
        length = [(name, value) for name, value in headers if name.lower() == "content-length"]
        status, headers = response.status, [*response.headers.to_wsgi_list(), *length]
    return start_response(status, headers, *exc_info)
