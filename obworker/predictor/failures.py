"""Turns exceptions into responses; the log gets what the client must not see."""

from __future__ import annotations

import logging
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import orjson
from werkzeug.exceptions import HTTPException

from obworker.errors import (
    DeviceError,
    InsufficientStorage,
    ObworkerError,
    RequestError,
    ServiceUnavailable,
)
from obworker.log import enable_loggers
from obworker.predictor.encoding import ReplyError
from obworker.predictor.faults import Diagnosis, Fault, diagnose
from obworker.predictor.traces import trim, user_traceback
from obworker.request_context import request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

INTERNAL = "Internal Server Error"
ANSWERS: dict[Fault, RequestError] = {
    Fault.DEVICE_LOST: ServiceUnavailable("the GPU has failed; try again"),
    Fault.NO_MEMORY: ServiceUnavailable("there is no memory for this at the moment; try again"),
    Fault.TOO_LARGE: InsufficientStorage("there is not as much memory as this takes"),
}
RETRY_AFTER = ("Retry-After", "1")
UNSENDABLE = "predict returned what cannot be sent: %s"

log = logging.getLogger("obworker.predictor")


def answer_json(
    start_response: StartResponse,
    status: int,
    content: dict[str, str],
    headers: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    """Answer with `content` as JSON, in place of a response that has failed after its start."""
    body = orjson.dumps(content)
    lines = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers]
    # PEP 3333: a second call may replace the headers of the first only with exc_info
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
    """Answers requests whose predict has raised.

    `on_fatal` is called when the GPU is lost, `on_no_memory` each time that memory was short.
    """

    def __init__(
        self,
        directory: Path,
        *,
        shows_tracebacks: bool,
        on_fatal: Callable[[ObworkerError], object],
        on_no_memory: Callable[[], object],
    ) -> None:
        self._directory = directory
        self._shows_tracebacks = shows_tracebacks
        self._on_fatal = on_fatal
        self._on_no_memory = on_no_memory

    def answer(
        self, error: Exception, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer with the status of `error` if it has one, else 500; 503 if the GPU is lost."""
        diagnosis = diagnose(error)
        is_lost = diagnosis is not None and diagnosis.fault is Fault.DEVICE_LOST
        if isinstance(error, RequestError) and not is_lost:
            return answer_json(start_response, error.status, {"error": str(error)})
        if isinstance(error, HTTPException) and not is_lost:
            return _answer_http(error, environ, start_response)
        return self._answer_internal(error, diagnosis, start_response)

    def report(self, error: BaseException) -> None:
        """Log `error` with the user's part of its traceback, and examine it."""
        self._log(error)
        self.examine(error)

    def examine(self, error: BaseException) -> bool:
        """Report an error about the GPU or memory; return whether the GPU is lost."""
        diagnosis = diagnose(error)
        if diagnosis is None:
            return False
        if diagnosis.fault is not Fault.DEVICE_LOST:
            self._on_no_memory()
            return False
        self._on_fatal(DeviceError(diagnosis.text))
        return True

    def _log(self, error: BaseException) -> None:
        enable_loggers()
        if isinstance(error, ReplyError):
            log.error(UNSENDABLE, error)
            return
        shown = (type(error), error, trim(error, self._directory))
        log.error("predict raised %s", type(error).__name__, exc_info=shown)

    def _answer_internal(
        self, error: Exception, diagnosis: Diagnosis | None, start_response: StartResponse
    ) -> Iterable[bytes]:
        self.report(error)
        answer = RequestError(INTERNAL) if diagnosis is None else ANSWERS[diagnosis.fault]
        content = {"error": str(answer)}
        if self._shows_tracebacks:
            content["traceback"] = self._explain(error)
        retry = [RETRY_AFTER] if answer.status == ServiceUnavailable.status else []
        headers = [("X-Request-ID", request_id()), *retry]
        return answer_json(start_response, answer.status, content, headers)

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ReplyError):  # predict has returned: all frames would be ours
            return UNSENDABLE % error
        trace = user_traceback(error, self._directory)
        return trace.encode("utf-8", "backslashreplace").decode()


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
    # the description may be of any type, and have lone surrogates
    message = str(error.description or error.name).encode("utf-8", "backslashreplace").decode()
    return answer_json(start_response, status, {"error": message}, kept)
