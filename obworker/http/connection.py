"""One client's connection: reads, dispatches whole requests one at a time, writes, keeps time.

Theory of operation. Everything here runs in the event loop's thread except `write`, `finish`,
`may_persist` and `date`, which a cycle calls from its executor thread. A connection is in one of
five states, and its deadline belongs to the state:

    IDLE        between requests; closed when its keep-alive time is over
    HEADER      a request has begun; 408 when its header takes too long
    BODY        its body is coming; 408 when the client pauses too long
    RESPONDING  a cycle has the request; 504 when predict takes too long
    LINGERING   our half is closed; waits for the client to close its own (RFC 9112 9.6)

There are no timers: the server looks at every connection's deadline four times a second. As long
as something waits to be sent, the deadline waits too, and the cycle's is moved: what counts then is
that the client goes on reading. Requests that arrive while one is answered wait in order, and
reading stops until they are served; the next is not begun before the client has read the last
response, so one that pipelines without end holds one read's worth of memory.

A connection that is lost lives on until its cycle has ended: a predict that is stuck is found even
if its client has left, and a server that drains waits for it.
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import socket
import struct
import sys
import termios
import time
from collections import deque
from typing import TYPE_CHECKING, cast

from obworker.errors import GatewayTimeout, RequestError, RequestTimeout, ServiceUnavailable
from obworker.http import response
from obworker.http.cycle import Cycle
from obworker.http.environ import base_environ, make_environ
from obworker.http.monitor import UNWATCHED
from obworker.http.parser import Request, RequestParser

if TYPE_CHECKING:
    from obworker.http.service import Service

LINGER_TIMEOUT = 2.0
ENDING = "this worker is about to end; try again"
# How long a draining server waits for one more request on a connection that has none: it may be
# on its way already, and a client rarely sends on a connection it left idle for longer.
DRAIN_IDLE_TIMEOUT = 1.0


class State(enum.Enum):
    """What a connection is waiting for."""

    IDLE = "idle"
    HEADER = "header"
    BODY = "body"
    RESPONDING = "responding"
    LINGERING = "lingering"


class Connection(asyncio.Protocol):
    """A client's connection; also the outlet of the cycle that answers it."""

    def __init__(self, service: Service) -> None:
        self.client = ""
        self.state = State.IDLE
        self._service = service
        self._parser = RequestParser(service.limits, self)
        timeouts = service.timeouts
        self._deadline = time.monotonic() + max(timeouts.keep_alive, timeouts.header)
        self._lost = False
        # what has been received
        self._requests: deque[Request] = deque()
        self._refusal: RequestError | None = None
        self._continue_expected = False
        self._half_closed = False
        # what is being answered
        self._cycle: Cycle | None = None
        self._fields: response.Headers = ()
        self._write_paused = False
        self._read_paused = False
        self._paused_since = 0.0
        self._unsent = 0
        self._unsent_since = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start reading."""
        self._transport = cast("asyncio.Transport", transport)
        self._base = base_environ(
            transport.get_extra_info("sockname") or "",
            transport.get_extra_info("peername") or "",
        )
        self.client = self._base["REMOTE_ADDR"]
        self._service.on_opened(self)
        if self._service.draining:
            self.drain(time.monotonic())

    def data_received(self, chunk: bytes) -> None:
        """Parse what came, and serve what is complete."""
        if self.state is State.LINGERING or self._refusal:
            return
        try:
            self._parser.feed(chunk)
        except RequestError as refusal:
            self._refusal = refusal
        self._advance()

    def eof_received(self) -> bool:
        """Keep our half open as long as there is something to answer."""
        self._half_closed = True
        return self.state is State.RESPONDING

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the cycle, if there is one, that nobody reads it any more."""
        self._lost = True
        self._requests.clear()
        if self._cycle is None:
            self._service.on_closed(self)
        else:
            self._cycle.lose_client()

    def pause_writing(self) -> None:
        """Hold the cycle back: the client reads slower than predict writes."""
        self._write_paused = True
        self._paused_since = time.monotonic()

    def resume_writing(self) -> None:
        """Let the cycle go on, or the next one begin."""
        self._write_paused = False
        if self._cycle is not None:
            self._excuse(self._cycle, time.monotonic())
            self._cycle.make_room()
        elif self.state is not State.LINGERING:
            self._advance()

    # Receiver: what the parser found

    def request_received(self, request: Request) -> None:
        """Queue a whole request."""
        self._continue_expected = False
        self._requests.append(request)

    def continue_expected(self) -> None:
        """Remember that the client waits for leave to send the body."""
        self._continue_expected = True

    # Outlet: called by the cycle, from its thread

    @property
    def may_persist(self) -> bool:
        """Whether another request may follow the one that is being answered.

        One that has come already is answered even if it is the last.
        """
        if self._service.timeouts.keep_alive == 0:
            return False
        return bool(self._requests) or not (self._service.draining or self._half_closed)

    @property
    def date(self) -> str:
        """The Date field for now."""
        return self._service.date

    def write(self, cycle: Cycle, part: bytes) -> None:
        """Send a part of the response."""
        self._service.loop.call_soon_threadsafe(self._write, cycle, part)

    def finish(self, cycle: Cycle, rest: bytes) -> None:
        """Send the rest of the response."""
        self._service.loop.call_soon_threadsafe(self._finish, cycle, rest)

    # Server: called by the ticker and when it drains

    def check(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if not self._lost and self._client_stalls(now):
            self._transport.abort()
        elif self._cycle is not None:
            if self._write_paused and not self._lost:
                self._excuse(self._cycle, now)
            else:
                self._check_cycle(self._cycle, now)
        elif self._unsent:
            if self.state is State.LINGERING:  # its time counts from the last byte
                self._deadline = now + LINGER_TIMEOUT
        elif now >= self._deadline and not self._transport.is_closing():
            self._give_up()

    def refuse_queued(self) -> None:
        """Answer 503 to a request that waits for a thread: it will not get one."""
        cycle = self._cycle
        if cycle is None or cycle.started is not None:
            return
        self._service.executors.finished()
        cycle.lose_client()
        cycle.status = ServiceUnavailable.status
        if not self._lost:
            self._send_error(ServiceUnavailable(ENDING), cycle.request.method)
        self._end_cycle(cycle, keep_alive=False)

    def drain(self, now: float) -> None:
        """Close once what is under way is answered; the next response says so."""
        if self.state is State.IDLE:
            self._deadline = min(self._deadline, now + DRAIN_IDLE_TIMEOUT)

    # the rest runs in the loop's thread

    def _client_stalls(self, now: float) -> bool:
        """Whether the client has read nothing for too long of what waits for it."""
        unsent = self._count_unsent()
        if unsent != self._unsent or not unsent:
            self._unsent, self._unsent_since = unsent, now
        return now - self._unsent_since >= self._service.timeouts.body

    def _count_unsent(self) -> int:
        """Return how many bytes wait for the client, or 0 once the kernel has taken them all.

        Those in the kernel count, too (SIOCOUTQ, tcp(7)): it takes more only when a third of its
        buffer is free, which is megabytes, and until then a slow client would seem to read nothing.
        """
        ours = self._transport.get_write_buffer_size()
        if not ours:
            return 0
        client = self._transport.get_extra_info("socket")
        kernels = fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4))
        return ours + int.from_bytes(kernels, sys.byteorder)

    def _advance(self) -> None:
        """Go on to whatever is next: the cycle at work, a request, a refusal, more bytes."""
        if self._cycle is not None or self._write_paused:
            if self._requests and not self._read_paused:
                self._read_paused = True
                self._transport.pause_reading()
        elif self._requests:
            self._begin(self._requests.popleft())
        elif self._refusal is not None:
            self._refuse(self._refusal)
        elif self._half_closed:
            self._transport.close()
        else:
            self._await_bytes()

    def _begin(self, request: Request) -> None:
        service = self._service
        self.state = State.RESPONDING
        environ = make_environ(self._base, request)
        request_id = service.request_ids.assign(environ)
        self._fields = service.fields(environ, request_id)
        if service.refusing:
            self._refuse(ServiceUnavailable(ENDING))
            return
        answerer = service.access.answerer(environ)
        queued = answerer is None and service.must_queue(request.method, environ["PATH_INFO"])
        self._cycle = cycle = Cycle(
            answerer or service.application,
            environ,
            request,
            self,
            timeout=service.timeouts.request,
            monitor=service.monitor if queued else UNWATCHED,
            request_id=request_id,
            fields=self._fields,
        )
        run = service.executors.submit if queued else service.executors.run_now
        run(cycle.run)

    def _await_bytes(self) -> None:
        now, timeouts = time.monotonic(), self._service.timeouts
        if self._parser.in_body:
            self.state, self._deadline = State.BODY, now + timeouts.body
            if self._continue_expected:
                self._continue_expected = False
                self._transport.write(response.CONTINUE)
        elif self._parser.request is None:
            if self.state is not State.IDLE:  # the empty lines before a request buy no time
                self.state, self._deadline = State.IDLE, now + timeouts.keep_alive
            if self._service.draining:
                self.drain(now)
        elif self.state is not State.HEADER:
            self.state, self._deadline = State.HEADER, now + timeouts.header

    def _write(self, cycle: Cycle, part: bytes) -> None:
        if cycle is not self._cycle or self._lost:
            return  # the cycle knows: it was told to lose its client
        self._transport.write(part)
        if not self._write_paused:
            cycle.make_room()

    def _finish(self, cycle: Cycle, rest: bytes) -> None:
        if cycle is not self._cycle:
            return  # given up at its deadline
        self._service.executors.finished()
        if not self._lost:
            self._transport.write(rest)
        self._end_cycle(cycle, keep_alive=cycle.keep_alive)

    def _end_cycle(self, cycle: Cycle, *, keep_alive: bool) -> None:
        self._service.log_access(self.client, cycle)
        self._cycle, self._fields = None, ()
        if self._lost:
            self._service.on_closed(self)
        elif cycle.needs_reset:
            self._reset()
        elif not keep_alive:
            self._linger()
        else:
            if not self._requests:
                self._resume_reading()
            self._advance()

    def _excuse(self, cycle: Cycle, now: float) -> None:
        """Do not count the time since the pause, or since the last look at it."""
        cycle.excuse(now - self._paused_since)
        self._paused_since = now

    def _check_cycle(self, cycle: Cycle, now: float) -> None:
        """Give a predict up that is past its deadline."""
        if now < cycle.deadline:
            return
        cycle.leave_predict()
        self._service.executors.finished()
        if cycle.head_sent:
            cycle.cut_short()
        else:
            cycle.status = GatewayTimeout.status
            if not self._lost:
                error = GatewayTimeout("the predictor did not answer in time")
                self._send_error(error, cycle.request.method)
        cycle.lose_client()
        self._end_cycle(cycle, keep_alive=False)
        self._service.on_overdue(cycle)

    def _give_up(self) -> None:
        if self.state in (State.HEADER, State.BODY):
            self._refuse(RequestTimeout("the request took too long to arrive"))
        elif self.state is State.IDLE:
            self._transport.close()
        else:
            self._transport.abort()

    def _refuse(self, error: RequestError) -> None:
        self._send_error(error)
        self._linger()

    def _send_error(self, error: RequestError, method: str = "") -> None:
        self._transport.write(
            response.error_response(
                error.status,
                error.reason,
                str(error),
                method=method,
                version="1.1",
                date=self._service.date,
                fields=self._fields,
            )
        )

    def _reset(self) -> None:
        """End the connection with a reset: what abort alone sends looks like an ordinary end."""
        client = self._transport.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _linger(self) -> None:
        """Close our half, and read on for a while, so that the client reads all we sent.

        To close both with bytes unread would reset the connection and the response with it.
        """
        if self._transport.is_closing():
            return
        self._requests.clear()
        self.state = State.LINGERING
        self._deadline = time.monotonic() + LINGER_TIMEOUT
        if self._half_closed:
            self._transport.close()
            return
        self._resume_reading()
        self._transport.write_eof()

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()
