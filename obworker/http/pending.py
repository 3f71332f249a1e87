"""A whole request until it is answered: its ID, what answers it, its errors and access line."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from obworker.access_lines import AccessRecord
from obworker.errors import ServiceUnavailable
from obworker.http import response
from obworker.http.cycle import Cycle
from obworker.http.environ import make_environ
from obworker.http.parser import Request

if TYPE_CHECKING:
    from obworker.errors import RequestError
    from obworker.http.cycle import Application, Outlet
    from obworker.http.environ import Environ
    from obworker.http.forwarded import Proxies
    from obworker.http.head import Head
    from obworker.http.monitor import Monitor
    from obworker.http.response import Headers
    from obworker.http.service import Service


class Pending:
    """A whole request; `base` is the environ that all requests of its connection share.

    `arrival` is the monotonic time at which it was whole. It is answered `at_once` if it does not
    reach predict, for example because access is refused.
    """

    __slots__ = (
        "_answerer",
        "_client",
        "_environ",
        "_fields",
        "_id",
        "_service",
        "arrival",
        "at_once",
        "request",
    )

    def __init__(
        self,
        service: Service,
        request: Request,
        base: Environ,
        proxies: Proxies | None,
        arrival: float,
    ) -> None:
        self.request = request
        self.arrival = arrival
        self._service = service
        self._environ = environ = make_environ(base, request)
        if proxies is not None:
            proxies.apply(environ)
        self._client: str = environ["REMOTE_ADDR"]  # before the application may change it
        self._id = service.request_ids.assign(environ)
        self._fields: Headers = ()
        self._answerer: Application | None = None
        access = service.access
        if not access.asks_nothing:
            self._fields, self._answerer = access.fields(environ), access.answerer(environ)
        self.at_once = self._answerer is not None or not service.must_queue(
            request.head.method, environ["PATH_INFO"]
        )

    def start(self, outlet: Outlet, monitor: Monitor) -> Cycle:
        """Return the cycle that will answer the request; called once."""
        service = self._service
        return Cycle(  # positional: keywords would cost as much as all the rest
            self._answerer or service.application,
            self._environ,
            self.request,
            outlet,
            self.arrival,
            service.settings.timeout or math.inf,
            monitor,
            self._id,
            self._fields,
        )

    def interim(self) -> bytes:
        """Return an interim response, empty for HTTP/1.0, which has none (RFC 9110 15.2)."""
        return b"" if self.request.head.version == "1.0" else response.CONTINUE

    def error(self, error: RequestError, *, keep_alive: bool) -> bytes:
        """Return the response for an error that the server itself reports."""
        _count_unavailable(self._service, error)
        return response.error_response(
            error,
            method=self.request.head.method,
            version=self.request.head.version,
            date=self._service.date,
            keep_alive=keep_alive,
            request_id=self._id,
            fields=self._fields,
        )

    def refusal(self, error: RequestError, *, keep_alive: bool) -> bytes:
        """Return the response to a request that was not started; count and log it."""
        service = self._service
        answer = self.error(error, keep_alive=keep_alive)
        service.tally.answered(error.status)
        if service.access_log is not None:
            sent, waited = response.body_size(answer), time.monotonic() - self.arrival
            service.access_log.write(self._record(error.status, sent, waited, 0.0, waited))
        return answer

    def note_end(self, cycle: Cycle) -> None:
        """Count and log the request, as its response has been handed over."""
        service, ended = self._service, cycle.ended
        service.tally.answered(cycle.status)
        if ended is not None and not self.at_once:
            service.tally.times.append(ended - self.arrival)
        if service.access_log is not None:
            now = time.monotonic()
            started = now if cycle.started is None else cycle.started
            predict = 0.0 if ended is None or self.at_once else ended - started
            queued, duration = started - self.arrival, now - self.arrival
            record = self._record(cycle.status, cycle.sent, queued, predict, duration)
            service.access_log.write(record)

    def _record(
        self, status: int, sent: int, queued: float, predict: float, duration: float
    ) -> AccessRecord:
        head = self.request.head
        return AccessRecord(
            time=time.time(),
            client=self._client,
            method=head.method,
            target=head.target,
            protocol="HTTP/" + head.version,
            status=status,
            sent=sent,
            request_id=self._id,
            queued=queued,
            predict=predict,
            duration=duration,
            traceparent=head.variables.get("HTTP_TRACEPARENT", ""),
        )


def refuse_incomplete(
    service: Service,
    head: Head | None,
    base: Environ,
    proxies: Proxies | None,
    error: RequestError,
) -> bytes:
    """Return the response to a request that never became whole; count and log it.

    If `head` is known the error is in the body, and the request is treated like any other.
    """
    if head is not None:
        pending = Pending(service, Request(head, b""), base, proxies, time.monotonic())
        return pending.refusal(error, keep_alive=False)
    _count_unavailable(service, error)
    fields = service.access.fields({})
    answer = response.error_response(error, date=service.date, fields=fields)
    service.tally.answered(error.status)
    if service.access_log is not None:
        sent, client = response.body_size(answer), base["REMOTE_ADDR"]
        service.access_log.write(AccessRecord(time.time(), client, "", b"", "", error.status, sent))
    return answer


def _count_unavailable(service: Service, error: RequestError) -> None:
    """Count a ServiceUnavailable, so that it is logged: it is not the client's fault."""
    if isinstance(error, ServiceUnavailable):
        service.troubles.refused.count(error.why)
