"""What can go wrong, each error with the exit code or the HTTP status it leads to.

Exit codes follow the field's habit (gunicorn: 3 boot, 4 load); they are documented in
docs/troubleshooting.md. Nothing in here imports anything of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as in a shell."""


class ObworkerError(Exception):
    """A failure the operator can act on: shown as one line, and a hint where there is one.

    `exit_code` is given if another process has determined it. `traceback` is for the log: the
    part that is in the user's code, if that helps.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        *,
        exit_code: int | None = None,
        traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = self.exit_code if exit_code is None else exit_code
        self.traceback = traceback


class UsageError(ObworkerError):
    """The command line, the environment or the configuration file is wrong."""

    exit_code = 2


class ListenError(UsageError):
    """An address cannot be listened on."""


class CommandError(ObworkerError):
    """The running obworker did not do what a command asked for; its answer has the exit code."""


class BootError(ObworkerError):
    """The predictor was loaded but no worker could build it."""

    exit_code = 3


class ScriptError(ObworkerError):
    """The start.sh never answered; the exit code is the script's own."""


class LoadError(ObworkerError):
    """The model directory has nothing that can be served."""

    exit_code = 4


class InjectionError(LoadError):
    """A signature has a parameter that cannot be filled."""


class RunError(ObworkerError):
    """The predictor's run() failed, after which its worker ends; another try may succeed."""


class DeviceError(ObworkerError):
    """The GPU failed, and nothing in this process can use it any more."""

    exit_code = 5


class Unhealthy(Exception):
    """The predictor says that it cannot serve; the message says why."""


class BrokenOff(Exception):
    """A response body was cut off; the reason has been logged."""


class RequestError(Exception):
    """A request cannot be served; `status` is that of the response (RFC 9110 15)."""

    status = 500
    reason = "Internal Server Error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.reason)


class BadRequest(RequestError):
    """The request is malformed, or its body is not what its Content-Type says."""

    status = 400
    reason = "Bad Request"


class NotAcceptable(RequestError):
    """No representation of the reply is among those the client accepts."""

    status = 406
    reason = "Not Acceptable"


class RequestTimeout(RequestError):
    """The client took too long to send its request."""

    status = 408
    reason = "Request Timeout"


class ContentTooLarge(RequestError):
    """The body is larger than the limit."""

    status = 413
    reason = "Content Too Large"


class UriTooLong(RequestError):
    """The request line is longer than the limit."""

    status = 414
    reason = "URI Too Long"


class ExpectationFailed(RequestError):
    """The client expects something other than ``100-continue``."""

    status = 417
    reason = "Expectation Failed"


class HeadersTooLarge(RequestError):
    """A header field is too long, or there are too many of them (RFC 6585 5)."""

    status = 431
    reason = "Request Header Fields Too Large"


class NotImplementedCoding(RequestError):
    """The body has a transfer coding other than chunked (RFC 9112 6.1)."""

    status = 501
    reason = "Not Implemented"


class ServiceUnavailable(RequestError):
    """The request cannot be served now, but may be soon; `why` is for the log."""

    status = 503
    reason = "Service Unavailable"

    def __init__(self, message: str | None = None, *, why: str = "") -> None:
        super().__init__(message)
        self.why = why or str(self)


class GatewayTimeout(RequestError):
    """The predictor did not answer before the request's deadline."""

    status = 504
    reason = "Gateway Timeout"

    def __init__(self) -> None:
        super().__init__("the predictor did not answer in time")


class InsufficientStorage(RequestError):
    """The request needs more memory than there is at all (RFC 4918 11.5)."""

    status = 507
    reason = "Insufficient Storage"


class HttpVersionNotSupported(RequestError):
    """The request is neither HTTP/1.1 nor HTTP/1.0."""

    status = 505
    reason = "HTTP Version Not Supported"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to `name`, if any is similar."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the name most like `name`, else an empty string."""
    match = nearest(name, known)
    return f" (did you mean {match!r}?)" if match else ""
