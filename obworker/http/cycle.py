"""One request and its response: the WSGI application's side of a connection.

Theory of operation. A cycle runs on an executor thread. It calls the application, decides how the
body is framed, and hands finished bytes to its connection, which lives in the event loop's thread:
by `Outlet.write` for a part, and as what `run` returns for the rest. It waits only for room: a part
is handed over when the one before it has left for the socket, so a slow reader holds back the
generator instead of filling memory. One that is answered together with others waits for nobody:
its response is made whole. When the client has gone the next part raises, and the body's
`close` runs, as PEP 3333 asks, before `run` returns.

The deadline is an instant, which predict may move (`obworker.extend_deadline` in the environ), and
each part of a stream does. It moves one way only: what predict was once given it keeps. The cycle
does not act on it; its connection does, and ends the cycle's time in predict by `leave_predict`.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from obworker.errors import BrokenOff
from obworker.http import response
from obworker.http.environ import Environ
from obworker.http.monitor import UNWATCHED, Monitor
from obworker.http.parser import Request
from obworker.http.response import Framing, Headers
from obworker.log import about_request

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

logger = logging.getLogger("obworker.http")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

# What the access log shows for a request that was dropped: nginx's "client closed request".
CLIENT_CLOSED_REQUEST = 499


class ClientGoneError(Exception):
    """Nobody is there to read the rest of the response."""


class Outlet(Protocol):
    """The connection as its cycle sees it; every method may be called from any thread."""

    @property
    def may_persist(self) -> bool:
        """Whether the connection can take another request after this one."""

    @property
    def date(self) -> bytes:
        """The Date field for a response that starts now."""

    def write(self, cycle: Cycle, part: bytes) -> None:
        """Send a part of the response; calls `cycle.make_room` when the next one may come."""


class Cycle:
    """Runs the application for one request, which was whole at `received`.

    `timeout` counts from when predict is entered. `request_id` and `fields` are added to the
    response where the application has none of that name. One that `is_led` shares its call of
    predict with another, who tells of it when it is overdue. Once it `is_under_way` its connection
    has taken a part of the response; before that an error may still take the response's place.
    """

    started: float | None = None
    ended: float | None = None
    deadline = math.inf
    status = 0
    sent = 0
    keep_alive = False
    head_sent = False
    is_under_way = False
    client_gone = False
    can_be_stopped = False
    is_over = False
    is_led = False
    _cut_short = False
    _in_predict = False
    _status_line = ""
    _headers: Headers = ()
    _framing: Framing = response.CLOSE
    _remaining: int | None = None
    _room: threading.Event | None = None
    _on_lost: Callable[[], object] | None = None
    # A monitor is to hear one thing at a time, in order, while predict moves the deadline and the
    # loop acts on it. All cycles share the lock: it is held for moments.
    _lock = threading.Lock()

    def __init__(
        self,
        application: Application,
        environ: Environ,
        request: Request,
        outlet: Outlet,
        received: float = 0.0,
        timeout: float = math.inf,
        monitor: Monitor = UNWATCHED,
        request_id: str = "",
        fields: Headers = (),
    ) -> None:
        self.request = request
        self.request_id = request_id
        self.fields = fields
        self.client: str = environ["REMOTE_ADDR"]
        self.received = received or time.monotonic()
        self._application = application
        self.environ = environ
        self._outlet = outlet
        self._timeout = timeout
        self._monitor = monitor

    def run(self, application: Application | None = None) -> bytes:
        """Serve the request; return the rest of the response. This is the request seam.

        `application` is what answers one that has entered predict, with others that may wait for
        it. Raises nothing but Ctrl-C.
        """
        try:
            if application is not None:
                return self._serve(application, self._send_whole)
            self.enter()
            return self._serve(self._application, self._send_parts)
        except ClientGoneError:
            self.status = self.status or CLIENT_CLOSED_REQUEST
            return b""
        except BrokenOff:
            return self._fail()
        except BaseException as error:  # sys.exit(), a cancelled task: they end one request
            if _is_ctrl_c(error):
                raise
            with about_request(self.request_id):
                logger.exception("the application failed on %s", self.request.head.line)
            return self._fail()
        finally:
            self.leave_predict()
            self.is_over = True

    # A cycle is a job of an executor's: this spares a bound method for each.
    __call__ = run

    def enter(self) -> None:
        """Read the body, let the deadline begin, and let the environ know how to move it.

        Raises:
            ClientGoneError: nobody waits for the response.
            MemoryError: there is none for the body.
        """
        self.started = started = time.monotonic()
        if self.client_gone:
            raise ClientGoneError
        self.environ["wsgi.input"] = self.request.open_body()
        self.deadline = started + self._timeout
        with self._lock:
            self._in_predict = True
            self._monitor.begun(self)
        self.environ["obworker.extend_deadline"] = self.extend_deadline
        self.environ["obworker.on_lost"] = self.on_lost

    @property
    def needs_reset(self) -> bool:
        """Whether only a reset tells the client that the body is not whole.

        It would take the connection's end for the body's (RFC 9112 6.3).
        """
        return self._cut_short and self._framing is response.CLOSE

    def cut_short(self) -> None:
        """Note that the body ends where it is, which is not its end."""
        self._cut_short = True

    def make_room(self) -> None:
        """Let the next part come; called when the one before it is on its way."""
        if self._room is not None:
            self._room.set()

    def extend_deadline(self, seconds: float) -> None:
        """Let predict take `seconds` from now, where it has less time; any thread may ask."""
        with self._lock:
            self._move_deadline(max(self.deadline, time.monotonic() + seconds))

    def renew_deadline(self) -> None:
        """Let predict take as long as it might at first: what it does now is something new."""
        self.extend_deadline(self._timeout)

    def excuse(self, seconds: float) -> None:
        """Do not count the time in which the client held the response up."""
        with self._lock:
            self._move_deadline(self.deadline + seconds)

    def leave_predict(self) -> None:
        """Count the request as over; what happens to its deadline later is of no interest."""
        with self._lock:
            if self._in_predict:
                self._in_predict = False
                self.ended = time.monotonic()
                self._monitor.ended(self)

    def lose_client(self) -> None:
        """Make the next part raise; called when nobody will read it."""
        with self._lock:
            self.client_gone = True
            on_lost, self._on_lost = self._on_lost, None
        self.make_room()
        if on_lost is not None:
            on_lost()

    def on_lost(self, call: Callable[[], object]) -> None:
        """Have a call made once nobody will read the response, at once if nobody will already.

        It must not wait. The application finds this as obworker.on_lost in the environ.
        """
        with self._lock:
            is_lost, self._on_lost = self.client_gone, call
        self.can_be_stopped = True
        if is_lost:
            call()

    def _serve(self, application: Application, send: Callable[[Iterable[bytes]], bytes]) -> bytes:
        """Run the application, and `send` its body; return what is left to send."""
        environ = self.environ
        # Two that refer to each other would keep the request's body until a garbage collection.
        del self.environ
        body = application(environ, self._start_response)
        if type(body) is list and len(body) == 1 and not self.head_sent:
            return self._frame_whole(body[0])
        try:
            return send(body)
        finally:
            self._close(body)

    def _move_deadline(self, deadline: float) -> None:
        if self._in_predict and deadline != self.deadline:
            self.deadline = deadline
            self._monitor.extended(self)

    def _close(self, body: Iterable[bytes]) -> None:
        """Close the body; the response is as good as it was, whatever that raises."""
        close = getattr(body, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:
                if _is_ctrl_c(error):
                    raise
                with about_request(self.request_id):
                    logger.exception("closing the response to %s failed", self.request.head.line)

    def _start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """PEP 3333's start_response."""
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # a traceback that refers to this frame is a cycle: PEP 3333
        elif self._status_line:
            raise AssertionError("start_response was called twice without exc_info")
        self.status = int(status[:3])
        self._status_line, self._headers = status, tuple(headers)
        return self._write

    def _frame_whole(self, body: bytes) -> bytes:
        """Frame a response that is known whole, for one write: the usual case, and the fast one."""
        if type(body) is not bytes:
            body = _plain(body)
        length = len(body)
        head = self._start(length)
        if self._framing is response.NO_BODY:
            body, length = b"", 0
        elif self._remaining is not None and length != self._remaining:
            raise ValueError(f"Content-Length is {self._remaining}, the body is {length}")
        whole = head + body
        self.sent = length
        self.head_sent = True
        return whole

    def _send_whole(self, body: Iterable[bytes]) -> bytes:
        if self.head_sent:  # by PEP 3333's write()
            return self._send_parts(body)
        return self._frame_whole(b"".join(body))

    def _send_parts(self, body: Iterable[bytes]) -> bytes:
        """Send the parts as they come; return what ends the body."""
        for part in body:
            if part:
                self._write(part)
            elif self.client_gone:
                raise ClientGoneError
            if self.head_sent and self._framing is response.NO_BODY:
                return b""  # it may go on for ever, and nobody will see it
        head = b"" if self.head_sent else self._start(0)
        if self._remaining:
            raise ValueError(f"the body ended {self._remaining} bytes before its Content-Length")
        self.head_sent = True
        return head + (response.LAST_CHUNK if self._framing is response.CHUNKED else b"")

    def _start(self, length: int | None) -> bytes:
        """Decide framing and persistence, and write the head; `length` where the body is whole."""
        if not self._status_line:
            raise AssertionError("the application sent a body before it called start_response")
        request, outlet = self.request.head, self._outlet
        opening, said = response.opening(self._status_line, self._headers)
        if self.status == 204:  # RFC 9110 8.6
            said = None
        known = length if said is None else said
        self._framing = framing = response.framing(
            request.method, request.version, self.status, known
        )
        if framing is response.LENGTH:
            self._remaining = said = known
        self.keep_alive = (
            request.keep_alive and framing is not response.CLOSE and outlet.may_persist
        )
        return response.head(
            opening,
            length=said,
            chunked=framing is response.CHUNKED,
            keep_alive=self.keep_alive,
            version=request.version,
            date=outlet.date,
            request_id=self.request_id,
            fields=self.fields,
        )

    def _write(self, part: bytes) -> None:
        """Send a part of the body; also PEP 3333's write()."""
        if type(part) is not bytes:
            part = _plain(part)
        head = b"" if self.head_sent else self._start(None)
        self._wait_for_room()
        if self._remaining is not None:
            if len(part) > self._remaining:
                raise ValueError("the body is longer than its Content-Length")
            self._remaining -= len(part)
        if self._framing is response.NO_BODY:
            part = b""
        framed = response.chunk(part) if part and self._framing is response.CHUNKED else part
        whole = head + framed
        self.sent += len(part)
        self.head_sent = True
        self._outlet.write(self, whole)

    def _wait_for_room(self) -> None:
        if self._room is None:
            self._room = threading.Event()
        elif not self.client_gone:
            self._room.wait()
            self._room.clear()
        if self.client_gone:
            raise ClientGoneError
        self.renew_deadline()  # it is about the next part from now on

    def _fail(self) -> bytes:
        """Return a 500 where nothing was sent yet; else the connection is cut, so that it shows."""
        self.keep_alive = False
        if self.head_sent:
            self.cut_short()
            return b""
        self.status, self.head_sent = 500, True
        answer = response.error_response(
            500,
            "Internal Server Error",
            "Internal Server Error",
            method=self.request.head.method,
            version=self.request.head.version,
            date=self._outlet.date,
            request_id=self.request_id,
            fields=self.fields,
        )
        self.sent = response.body_size(answer)
        return answer


def _plain(part: ReadableBuffer) -> bytes:
    """Return the bytes of what is none: its length may count something else, items of an array."""
    return memoryview(part).tobytes()


def _is_ctrl_c(error: BaseException) -> bool:
    """Whether this is for the whole process: the signal's exception is the main thread's."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
