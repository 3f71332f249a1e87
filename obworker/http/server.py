"""Accepts connections from a listener that other workers share, and ends without losing one."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from obworker.access_log import AccessLog
from obworker.http.access import Access
from obworker.http.connection import Connection
from obworker.http.cors import Cors
from obworker.http.monitor import UNWATCHED, Monitor
from obworker.http.parser import Limits
from obworker.http.queue import Executors
from obworker.http.request_ids import RequestIds
from obworker.http.service import Service, Timeouts

if TYPE_CHECKING:
    from obworker.http.api_keys import ApiKeys
    from obworker.http.cycle import Application, Cycle
    from obworker.settings import Settings

logger = logging.getLogger("obworker.http")

TICK = 0.25
# A worker without a free executor leaves a new connection to the others for this long.
YIELD_TIME = 0.005
# Out of descriptors: a listener stays readable, so accepting again at once would spin.
ACCEPT_RETRY_TIME = 0.5
# From the moment a stop is asked for, a handshake that is under way has this long to complete.
ACCEPT_GRACE = 0.2


def _always(_method: str, _path: str) -> bool:
    return True


def _never(_method: str, _path: str) -> bool:
    return False


class Server:
    """Serves `application` on `listener`; all methods run in the event loop's thread.

    A request for which `must_queue` is false, given its method and path, is answered at once, on
    that thread too: it must not take time, nor have more than one part of body to wait with; it is
    for questions such as "are you there?". One for which `is_open` is true needs none of the
    `api_keys`. `slot` is for the access log.
    """

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        settings: Settings,
        *,
        threads: int | None = None,
        must_queue: Callable[[str, str], bool] = _always,
        is_open: Callable[[str, str], bool] = _never,
        api_keys: ApiKeys | None = None,
        slot: int | None = None,
        monitor: Monitor = UNWATCHED,
        on_overdue: Callable[[Cycle], None],
    ) -> None:
        self.executors = Executors(threads or settings.threads, on_free=self._end_yield)
        self._yielding: asyncio.TimerHandle | None = None
        self.drained = asyncio.Event()
        self._tick_due = math.inf
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = listener
        self._backlog = settings.backlog
        self._connections: set[Connection] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        self._service = Service(
            application=application,
            executors=self.executors,
            limits=Limits.of(settings),
            timeouts=Timeouts.of(settings),
            must_queue=must_queue,
            loop=self._loop,
            monitor=monitor,
            access=Access(api_keys, Cors.of(settings), is_open),
            request_ids=RequestIds(),
            access_log=_access_log(settings, slot),
            on_overdue=on_overdue,
            on_opened=self._connections.add,
            on_closed=self._forget,
        )

    @property
    def active(self) -> int:
        """How many connections are open, or have a request at work whose client has left."""
        return len(self._connections)

    def start(self) -> None:
        """Listen and accept: until the first worker does, the bound port refuses clients."""
        assert self._listener is not None
        self._listener.setblocking(False)
        self._listener.listen(self._backlog)
        self._watch_listener()
        self._tick()

    def drain(self, *, empty_queue: bool) -> None:
        """Stop accepting, answer what has come, then set `drained`.

        `empty_queue` says that nobody else will accept what waits in the listener's queue.
        """
        if self._service.draining:
            return
        self._service.draining = True
        now = time.monotonic()
        for connection in self._connections:
            connection.drain(now)
        if empty_queue:
            self._loop.call_later(ACCEPT_GRACE, self._empty_listener)
        else:
            self._leave_listener()

    def refuse_queued(self) -> None:
        """Answer 503 to what waits for a thread, and to what comes: nothing more is begun."""
        self._service.refusing = True
        for connection in list(self._connections):
            connection.refuse_queued()

    # accepting

    def _watch_listener(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._connection_waits)

    def _pause_accepting(self, seconds: float, resume: Callable[[], None]) -> asyncio.TimerHandle:
        assert self._listener is not None
        self._loop.remove_reader(self._listener.fileno())
        return self._loop.call_later(seconds, resume)

    def _connection_waits(self) -> None:
        if self.executors.busy and not self._service.draining:
            self._yielding = self._pause_accepting(YIELD_TIME, self._end_yield)
        else:
            self._accept()

    def _end_yield(self) -> None:
        """Accept again: nobody else took the connection, or an executor is free before that."""
        if self._yielding is not None:
            self._yielding.cancel()
            self._yielding = None
            self._watch_listener()
            self._accept()

    def _accept(self) -> bool:
        """Accept one connection, so that workers take turns; return whether there was one."""
        if self._listener is None:
            return False
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            logger.warning("cannot accept a connection: %s", error.strerror)
            self._pause_accepting(ACCEPT_RETRY_TIME, self._watch_listener)
            return False
        task = self._loop.create_task(self._attach(client))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        return True

    async def _attach(self, client: socket.socket) -> None:
        client.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(lambda: Connection(self._service), client)
        except OSError as error:  # the client left already
            logger.debug("a connection ended before it began: %s", error)

    def _empty_listener(self) -> None:
        """Take what the kernel has accepted for us, then let go of the listener."""
        while self._accept():
            pass
        self._leave_listener()

    def _leave_listener(self) -> None:
        """Accept no more. Never shutdown(): the queue belongs to all workers."""
        if self._listener is None:
            return
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        self._listener = None
        self._note_drained()

    def reopen_access_log(self) -> None:
        """Go on in a new file, where there is one and it was renamed."""
        if self._service.access_log is not None:
            self._service.access_log.reopen()

    def close_access_log(self) -> None:
        """Write what waits for it; to be called before the process ends."""
        if self._service.access_log is not None:
            self._service.access_log.close()

    # time

    def _tick(self) -> None:
        now = time.monotonic()
        is_late, self._tick_due = now > self._tick_due + TICK, now + TICK
        self._loop.call_later(TICK, self._tick)
        self._service.monitor.beat(now)
        if not is_late:  # else what came meanwhile is yet to be read: timers run before that
            for connection in list(self._connections):
                connection.check(now)
        self._note_drained()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._note_drained()

    def _note_drained(self) -> None:
        accepts = not self._service.draining or self._listener is not None
        if not accepts and not self._connections and not self._arriving:
            self.drained.set()


def _access_log(settings: Settings, slot: int | None) -> AccessLog | None:
    if not settings.access_log:
        return None
    return AccessLog(settings.access_log_file, settings.access_log_format, slot)
