"""What went wrong in a request becomes its answer; the log has what the client must not see."""

from __future__ import annotations

import logging
import sys
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import orjson
from werkzeug.exceptions import HTTPException

from obworker.errors import RequestError
from obworker.log import request_id, safe_id
from obworker.predictor.encoding import ReplyError
from obworker.predictor.traces import trim, user_traceback

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

INTERNAL = "Internal Server Error"

log = logging.getLogger("obworker.predictor")


def answer_json(
    start_response: StartResponse,
    status: int,
    content: dict[str, str],
    headers: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    """Answer with `content` as JSON, in place of what a failed reply may have started."""
    body = orjson.dumps(content)
    lines = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers]
    # PEP 3333: only with exc_info may a second call replace the first one's headers
    exc_info = sys.exc_info()
    if exc_info[0] is None:
        start_response(status_line(status), lines)
    else:
        start_response(status_line(status), lines, exc_info)
    return [body]


def status_line(status: int) -> str:
    """Return `status` with its phrase (RFC 9110 15)."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"


class Failures:
    """Answers what predict raises."""

    def __init__(self, directory: Path, *, shows_tracebacks: bool) -> None:
        self._directory = directory
        self._shows_tracebacks = shows_tracebacks

    def answer(
        self, error: Exception, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer with the status that `error` has, or with 500."""
        if isinstance(error, RequestError):
            return answer_json(start_response, error.status, {"error": str(error)})
        if isinstance(error, HTTPException):
            return _answer_http(error, environ, start_response)
        return self._answer_internal(error, start_response)

    def report(self, error: BaseException) -> None:
        """Log `error` with the user's part of its traceback."""
        if isinstance(error, ReplyError):
            log.error("predict returned what cannot be sent: %s", error)
            return
        shown = (type(error), error, trim(error, self._directory))
        log.error("predict raised %s", type(error).__name__, exc_info=shown)

    def _answer_internal(self, error: Exception, start_response: StartResponse) -> Iterable[bytes]:
        self.report(error)
        content = {"error": INTERNAL}
        if self._shows_tracebacks:
            trace = user_traceback(error, self._directory)
            content["traceback"] = trace.encode("utf-8", "backslashreplace").decode()
        return answer_json(start_response, 500, content, [("X-Request-ID", request_id())])


def identify(environ: WSGIEnvironment) -> str:
    """Return the id that the request has: it came with one, or the server gave it one.

    Some other servers do not; then it is a new one.
    """
    for key in ("HTTP_X_REQUEST_ID", "HTTP_X_OPENBAYES_SERVING_REQUEST_ID"):
        if id_ := safe_id(environ.get(key, "")):
            return id_
    return uuid.uuid4().hex


def _answer_http(
    error: HTTPException, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    if error.response is not None:
        respond = cast("WSGIApplication", error.response)  # declared without its __call__
        return respond(environ, start_response)
    status = error.code or 500
    kept = [
        (name, value)
        for name, value in error.get_response(environ).headers
        if name.lower() not in {"content-type", "content-length"}
    ]
    # whatever was given as the description, as text that UTF-8 can hold
    message = str(error.description or error.name).encode("utf-8", "backslashreplace").decode()
    return answer_json(start_response, status, {"error": message}, kept)
