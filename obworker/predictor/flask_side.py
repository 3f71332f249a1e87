"""Flask, for predictors that use it: its request, and a context in which jsonify works.

The mold, if there is one, imports Flask, so that it is in memory once, and looks for modules that
use it. Looking at a module writes to its reference count, after which its page is not shared any
more. So a worker only looks at the modules that it has imported itself.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import Headers

from obworker.predictor.arguments import Call, plain_request
from obworker.predictor.traces import is_inside

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse
    from flask import Flask

    from obworker.predictor.injection import Plan

_IMPORTS_FLASK = re.compile(rb"^[^#\n]*\b(from|import)\b[^#\n]*\bflask", re.MULTILINE)


class FlaskUse:
    """Whether a model uses Flask: it asks for the request, or one of its modules imports Flask."""

    def __init__(self, directory: Path, *, asks_for_request: bool) -> None:
        self._directory = directory
        self._seen = 0
        self._side = FlaskSide.make(directory) if asks_for_request else None

    def side(self) -> FlaskSide:
        """Return what it needs of Flask, after a look at the modules that are new."""
        if self._side is None and self._is_imported():
            self._side = FlaskSide.make(self._directory)
        return self._side or FlaskSide()

    def _is_imported(self) -> bool:
        """Whether the source of a new module in the directory imports flask.

        The source is searched because the import may be in a function, and because not everything
        that is imported shows where it is from: ``flask.request`` does not.
        """
        new = list(islice(reversed(sys.modules.values()), max(0, len(sys.modules) - self._seen)))
        self._seen = len(sys.modules)
        # There are thousands of modules, and to make a path for each takes some milliseconds.
        start = f"{self._directory}/"
        files = {file for file in map(_file, new) if file.startswith(start)}
        return any(
            _IMPORTS_FLASK.search(_text(file)) for file in files if is_inside(file, self._directory)
        )


def _file(module: object) -> str:
    return getattr(module, "__dict__", {}).get("__file__") or ""


def _text(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:  # in an archive, or not there any more
        return b""


@dataclass(frozen=True)
class FlaskSide:
    """What a predictor may need of Flask; the defaults are for predictors without it."""

    make_request: Callable[[Call], object] = plain_request
    context: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    """Makes the context manager in which jsonify works for several requests at once."""
    is_there: bool = False

    @classmethod
    def make(cls, directory: Path) -> FlaskSide:
        """Return what Flask provides, if it is installed."""
        try:
            from flask import Flask
        except ImportError:
            return cls()
        app = Flask("predictor", root_path=str(directory), static_folder=None)
        return cls(partial(_enter_request, app), app.app_context, is_there=True)

    def prepare_for(self, plan: Plan | None) -> Callable[[Call], object] | None:
        """Return what must be called before a method that does not ask for the request."""
        asks = plan is not None and "request" in plan.names
        return self.make_request if self.is_there and not asks else None


def _enter_request(app: Flask, call: Call) -> object:
    """Enter a request context until the call is released; return Flask's request."""
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
    """Start the response with the head that functions given to after_this_request return.

    The body exists already, so Content-Length stays what it was.
    """
    functions = getattr(context, "_after_request_functions", [])
    if functions:
        response = app.response_class(status=status)
        response.headers = Headers(headers)
        while functions:  # each once, also where one fails
            response = app.ensure_sync(functions.pop(0))(response)
        response.headers.pop("Content-Length", None)
        length = [(name, value) for name, value in headers if name.lower() == "content-length"]
        status, headers = response.status, [*response.headers.to_wsgi_list(), *length]
    return start_response(status, headers, *exc_info)
