"""One request on its executor: its time in predict, and how its response gets to its connection.

Theory of operation. A cycle runs on an executor thread. It calls the application, whose response is
framed by answer.py, and passes framed bytes to its connection, which lives in the event loop's
thread: parts by `Outlet.write`, and the rest as the result of `run`. A part is passed on when the
previous one has left for the socket, so a slow reader holds back the generator instead of filling
memory. A request of a batch never waits for its client: its response is made whole. When the client
has gone the next part raises, and the body's `close` is called, as PEP 3333 asks, before `run`
returns.

The deadline is an instant, which predict may move (`obworker.extend_deadline` in the environ), as
does each part of a stream. It only moves to later: predict keeps the time that it was given. The
cycle does not act on the deadline; its connection does, and then calls `leave_predict`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from obworker.errors import BrokenOff
from obworker.http.answer import Answer, ClientGoneError, is_ctrl_c
from obworker.http.environ import Environ
from obworker.http.monitor import UNWATCHED, Monitor
from obworker.http.parser import Request
from obworker.http.response import Headers
from obworker.request_context import about_request

logger = logging.getLogger("obworker.http")

StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

# What the access log shows for a request that was dropped: nginx's "client closed request".
CLIENT_CLOSED_REQUEST = 499


class Outlet(Protocol):
    """The connection as seen by its cycle; all methods may be called from any thread."""

    @property
    def may_persist(self) -> bool:
        """Whether the connection can take another request after this one."""

    @property
    def date(self) -> bytes:
        """The Date field for a response that starts now."""

    def write(self, cycle: Cycle, part: bytes) -> None:
        """Send a part of the response, and call `cycle.make_room` when the next one may come."""


class Cycle(Answer):
    """Runs the application for one request, which was whole at `received`.

    `timeout` counts from entering predict. If it `is_led` its call of predict is that of another
    cycle, which reports the call if it is overdue. `is_under_way` says that the connection has
    taken a part of the response; before that an error may still replace it.
    """

    started: float | None = None
    ended: float | None = None
    deadline = math.inf
    is_under_way = False
    can_be_stopped = False
    is_over = False
    is_led = False
    _in_predict = False
    _held_up_since: float | None = None
    _room: threading.Event | None = None
    _on_lost: Callable[[], object] | None = None
    # Calls of a monitor come one at a time and in order, though predict moves the deadline while
    # the loop acts on it. All cycles share the lock: it is only held briefly.
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
        self.received = received or time.monotonic()
        self._application = application
        self.environ = environ
        self._outlet = outlet
        self._timeout = timeout
        self._monitor = monitor

    def run(self, application: Application | None = None) -> bytes:
        """Serve the request; return the rest of the response. This is the request seam.

        `application` answers a request of a batch, which has entered predict already; others may
        wait for it. Raises nothing but Ctrl-C.
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
            if is_ctrl_c(error):
                raise
            with about_request(self.request_id):
                logger.exception("the application failed on %s", self.request.head.line)
            return self._fail()
        finally:
            self.leave_predict()
            self.is_over, self._on_lost = True, None

    # A cycle is itself the job of an executor: this saves a bound method for each.
    __call__ = run

    def enter(self) -> None:
        """Open the body, start the timeout, and put the calls for predict into the environ.

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

    def make_room(self) -> None:
        """Let the next part come; called when the previous one is on its way."""
        if self._room is not None:
            self._room.set()

    def extend_deadline(self, seconds: float) -> None:
        """Give predict `seconds` from now on, if it has less; from any thread."""
        with self._lock:
            self._move_deadline(max(self.deadline, time.monotonic() + seconds))

    def renew_deadline(self) -> None:
        """Give predict its whole timeout again, as it begins something new."""
        self.extend_deadline(self._timeout)

    @property
    def is_held_up(self) -> bool:
        """Whether the next part waits for a client that is slow to read."""
        return self._held_up_since is not None

    def hold_up(self) -> None:
        """Let the next part wait; from now on the time does not count as predict's."""
        if self._held_up_since is None:
            self._held_up_since = time.monotonic()

    def excuse(self, now: float) -> None:
        """Add the time since `hold_up`, or since the last call of this, to the deadline."""
        assert self._held_up_since is not None
        seconds, self._held_up_since = now - self._held_up_since, now
        with self._lock:
            self._move_deadline(self.deadline + seconds)

    def let_go_on(self) -> None:
        """Let the next part come, after `hold_up`."""
        self.excuse(time.monotonic())
        self._held_up_since = None
        self.make_room()

    def leave_predict(self) -> None:
        """Count the request as over; its deadline does not move any more."""
        with self._lock:
            if self._in_predict:
                self._in_predict = False
                self.ended = time.monotonic()
                self._monitor.ended(self)

    def lose_client(self) -> None:
        """Make the next part raise; called when nobody will read the response."""
        with self._lock:
            self.client_gone = True
            on_lost, self._on_lost = self._on_lost, None
        self.make_room()
        if on_lost is not None:
            on_lost()

    def on_lost(self, call: Callable[[], object]) -> None:
        """Make a call when nobody will read the response any more, at once if that is so already.

        The call must not block. Applications find this method in the environ: obworker.on_lost.
        """
        with self._lock:
            is_lost, self._on_lost = self.client_gone, call
        self.can_be_stopped = True
        if is_lost:
            call()

    def _move_deadline(self, deadline: float) -> None:
        if self._in_predict and deadline != self.deadline:
            self.deadline = deadline
            self._monitor.extended(self)

    def _await_room(self) -> None:
        if self._room is None:
            self._room = threading.Event()
        elif not self.client_gone:
            self._room.wait()
            self._room.clear()
        if self.client_gone:
            raise ClientGoneError
        self.renew_deadline()  # the time of the next part begins

    def _hand_over(self, framed: bytes) -> None:
        self._outlet.write(self, framed)
