"""An HTTP server: wires its parts, keeps the time, and drains without losing a connection.

Theory of operation. A connection comes from the acceptor, or, through the queue, from another
worker (arrivals.py). Whatever is due by the clock is done by a tick, four times a second: deadlines
of connections, requests that have waited too long, what the monitor, the log and the Date field are
to say.

A drain closes the listeners; each connection moves to another worker, or is closed, the next time
it is idle. The drain is over when no listener, no connection and no doubted client is left. Where
connections are closed, because no other worker serves on, the exchange has to be empty as well.
"""

from __future__ import annotations

import itertools
import logging
import math
import operator
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from obworker.access_log import AccessLog
from obworker.errors import RequestError, ServiceUnavailable
from obworker.http.acceptor import Acceptor
from obworker.http.access import Access
from obworker.http.arrivals import Arrivals
from obworker.http.batches import Batches
from obworker.http.bodies import Bodies
from obworker.http.connection import Connection
from obworker.http.cors import Cors
from obworker.http.executors import Executors
from obworker.http.monitor import UNWATCHED, Monitor
from obworker.http.queue import OwnPlaces, RequestQueue
from obworker.http.reactor import Reactor
from obworker.http.service import Service
from obworker.http.spool import Spools
from obworker.http.tally import Tally
from obworker.http.troubles import Troubles

if TYPE_CHECKING:
    import ssl

    from obworker.http.api_keys import ApiKeys
    from obworker.http.batches import Batching
    from obworker.http.cycle import Application, Cycle
    from obworker.http.exchange import Exchange, Parcel
    from obworker.settings import Settings

logger = logging.getLogger("obworker.http")

TICK = 0.25
# Checking the deadline of a connection takes 2 µs, cutting it off takes tens of µs.
CHECKED_AT_ONCE = 64
ENDING = ServiceUnavailable(
    "this worker is about to end; try again",
    why="this worker was about to end, see --timeout and --graceful-timeout",
)


def _ignore(*_told: object) -> None:
    """Do nothing: the default of callbacks."""


class Server:
    """Serves `application` on `listeners`; all methods are for the event loop's thread.

    `must_queue` and `is_open` get the method and path of a request. One that need not queue, such
    as a probe, is answered at once on that thread: it must not take time, and its body must be of
    one part. One that is open needs none of the `api_keys`. With `batching`, requests that queue
    are answered together. With an `exchange`, requests can wait there for any worker. `slot` is for
    the access log. `on_drained` is called once.
    """

    def __init__(
        self,
        application: Application,
        listeners: Sequence[socket.socket],
        settings: Settings,
        *,
        threads: int | None = None,
        inline: bool = True,
        batching: Batching | None = None,
        must_queue: Callable[[str, str], bool] = lambda _method, _path: True,
        is_open: Callable[[str, str], bool] = lambda _method, _path: False,
        api_keys: ApiKeys | None = None,
        slot: int | None = None,
        exchange: Exchange | None = None,
        tls: ssl.SSLContext | None = None,
        monitor: Monitor = UNWATCHED,
        on_overdue: Callable[[Cycle], None] = _ignore,
        on_drained: Callable[[], None] = _ignore,
    ) -> None:
        self.reactor = Reactor()
        self.executors = Executors(
            self.reactor,
            threads or settings.threads,
            on_free=self._on_free,
            on_relieved=self._on_relieved,
            inline=inline,
        )
        self._batches = batching and Batches(
            batching, self.reactor, self.executors, self._on_relieved
        )
        self._takers = self._batches or self.executors
        troubles = Troubles()
        self.queue = self._make_queue(settings, exchange, monitor, troubles)
        self._spools = Spools() if exchange is None else exchange.spools
        self._tick_due = math.inf
        self._on_drained: Callable[[], None] | None = on_drained
        self._service = Service(
            application=application,
            settings=settings,
            reactor=self.reactor,
            executors=self.executors,
            queue=self.queue,
            submit=self._takers.submit,
            exchange=exchange,
            bodies=Bodies(self._spools, self.queue),
            tls=tls,
            must_queue=must_queue,
            monitor=monitor,
            access=Access(api_keys, Cors.of(settings), is_open),
            access_log=_access_log(settings, slot),
            troubles=troubles,
            on_overdue=on_overdue,
            on_closed=self._forget,
        )
        self._arrivals = Arrivals(self._service, self._note_drained)
        self.acceptor = Acceptor(
            self._service,
            self._takers,
            listeners,
            at_once=batching.size if batching else 1,
            on_left=self._note_drained,
        )

    def _make_queue(
        self, settings: Settings, exchange: Exchange | None, monitor: Monitor, troubles: Troubles
    ) -> RequestQueue:
        return RequestQueue(
            self.reactor,
            self._takers,
            exchange,
            exchange or OwnPlaces.of(settings),
            timeout=settings.queue_timeout,
            accept=self._take_in,
            on_waiting=monitor.queued,
            on_failure=troubles.not_taken.count,
        )

    def start(self) -> None:
        """Listen and accept: until the first worker does, the bound port refuses clients."""
        self.acceptor.start()
        self.queue.watch()
        self._tick()

    def drain(self, *, empty_queue: bool, final: bool) -> None:
        """Stop accepting, answer what has arrived, then call `on_drained`.

        `empty_queue` says that no other process will accept what waits in the listeners' queues.
        `final` says that no other worker will go on: then connections are closed, otherwise they
        move to the exchange. A drain may be made final later.
        """
        service = self._service
        if service.draining and (service.is_closing or not final):
            return
        has_left, service.draining = service.draining, True
        if self._batches is not None:
            self._batches.stop_waiting()
        service.is_closing = final or service.exchange is None or service.tls is not None
        if not service.is_closing:
            self.queue.retire()
        elif has_left:
            self.queue.rejoin()
        for connection in list(service.connections):
            connection.drain()
        if has_left:
            self._note_drained()
        elif empty_queue:
            self.acceptor.empty_soon()
        else:
            self.acceptor.leave()

    def refuse_queued(self) -> None:
        """Begin nothing any more: requests that wait or arrive move, or get 503."""
        self.queue.refuse_all(ENDING)

    def fail_all(self, error: RequestError) -> None:
        """Begin nothing any more, and answer what is in predict with `error`.

        For any thread that holds the wheel.
        """
        self.queue.refuse_all(error)
        for connection in list(self._service.connections):
            connection.fail(error)

    def reopen_access_log(self) -> None:
        """Open the access log again, if there is one, after its file was renamed."""
        if self._service.access_log is not None:
            self._service.access_log.reopen()

    def close(self) -> None:
        """Report what was answered, and close the access log; called before the process ends."""
        self._beat(time.monotonic())
        self._report(math.inf)
        if self._service.access_log is not None:
            self._service.access_log.close()

    # the queue

    def _on_free(self) -> None:
        self.queue.serve_next()
        self.acceptor.on_free()

    def _on_relieved(self) -> None:
        self.queue.leave_to_others()

    def _take_in(self, parcel: Parcel) -> None:
        self._arrivals.take_in(parcel)

    # time

    def _tick(self) -> None:
        now = time.monotonic()
        is_late, self._tick_due = now > self._tick_due + TICK, now + TICK
        self.reactor.call_later(TICK, self._tick)
        self._beat(now)
        self._service.tell_time()
        self._spools.trim(now)
        if not is_late:  # else read first what arrived meanwhile: timers run before sockets
            self._check(iter(list(self._service.connections)), now)
        self._note_drained()
        self.queue.check(now)
        self._report(now)

    def _beat(self, now: float) -> None:
        service = self._service
        tally, service.tally = service.tally, Tally()
        service.monitor.beat(now, tally)

    def _report(self, now: float) -> None:
        for line in self._service.troubles.lines(now):
            logger.warning("%s", line)

    def _check(self, connections: Iterator[Connection], now: float) -> None:
        """Check the deadlines of some connections, and of the rest after other events."""
        for connection in itertools.islice(connections, CHECKED_AT_ONCE):
            connection.check(now)
        if operator.length_hint(connections):
            self.reactor.post(self._check, connections, now)

    def _forget(self, connection: Connection) -> None:
        self._service.connections.discard(connection)
        self.acceptor.on_room()
        if self._service.draining:  # not at once: the caller may not have finished with it
            self.reactor.post(self._note_drained)

    def _note_drained(self) -> None:
        service = self._service
        if not service.draining or self.acceptor.listeners or service.connections:
            return
        if not self._arrivals.are_settled or (service.is_closing and not self.queue.is_empty):
            return
        on_drained, self._on_drained = self._on_drained, None
        if on_drained is not None:
            on_drained()


def _access_log(settings: Settings, slot: int | None) -> AccessLog | None:
    if not settings.access_log:
        return None
    return AccessLog(settings.access_log_file, settings.access_log_format, slot)
