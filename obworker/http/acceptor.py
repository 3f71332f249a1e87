"""Accepts connections from listeners that all workers share.

Theory of operation. Every worker watches the listeners and accepts one connection at a time, so
that workers take turns. A worker whose executors are busy leaves a new connection to the others for
a moment. If nobody has accepted it by then, all workers are busy, and this one accepts several at
once: otherwise a crowd of new connections would delay everybody who connects after it.

At the limit of connections those make room that have been idle longest, but none that is new: its
request may be on its way. Where there are none, accepting goes on as soon as one has ended.
"""

from __future__ import annotations

import errno
import heapq
import math
import resource
import select
import socket
import time
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from obworker.http.connection import Connection
from obworker.http.reactor import READ, Timer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence

    from obworker.http.queue import Takers
    from obworker.http.service import Service
    from obworker.http.tls import TlsSocket

# A worker without a free executor leaves a new connection to the others for this long.
YIELD_TIME = 0.005
# Then it accepts this many at once: each costs the loop about 0.1 ms.
TAKEN_AT_ONCE = 16
# Out of descriptors: a listener stays readable, so accepting again at once would spin.
ACCEPT_RETRY_TIME = 0.5
# Something has run out in this process or system; any other error is about the one connection that
# was to be accepted (accept(2)).
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})
# When a stop is asked for, handshakes that are under way have this long to complete.
ACCEPT_GRACE = 0.2
# Descriptors that are kept for other things than connections, such as the predictor's files.
SPARED_DESCRIPTORS = 64
# At the limit of connections this share of them is closed at once, as finding the oldest takes
# time.
CLOSED_SHARE = 0.01
# A new connection is not closed for that within this time: a packet may get lost twice (RFC 6298
# 2.1, 5.5).
SPARED_TIME = 5.0
# The kernel buffers at most this much of a connection that it has not sent yet (tcp_notsent_lowat
# in the kernel's ip-sysctl). Otherwise it would take megabytes at once: copying them would delay
# other clients, and nobody would notice that a client reads nothing.
MOST_UNSENT_IN_KERNEL = 128 << 10


class Acceptor:
    """Accepts clients, and makes a Connection of each; for the event loop's thread.

    When an executor becomes free, up to `at_once` are accepted: as many as one call can answer.
    `on_left` is called when all listeners are closed.
    """

    def __init__(
        self,
        service: Service,
        takers: Takers,
        listeners: Sequence[socket.socket],
        *,
        at_once: int,
        on_left: Callable[[], None],
    ) -> None:
        self.listeners = list(listeners)
        self._service = service
        self._takers = takers
        self._backlog = service.settings.backlog
        self._most = _most_connections(service.settings.max_connections)
        self._no_room = f"there are {self._most} and none is idle, see --max-connections"
        self._at_once = at_once
        self._on_left = on_left
        # What accepting waits for, if it does: an executor, or room.
        self._yielding: Timer | None = None
        self._full: Timer | None = None
        self._look_due = -math.inf
        self._is_accepting = self._is_leaving = False

    def start(self) -> None:
        """Listen and accept: until the first worker does, the bound port refuses clients."""
        for listener in self.listeners:
            listener.setblocking(False)
            listener.listen(self._backlog)
        self.watch()

    def watch(self) -> bool:
        """Watch the listeners; return whether they were not watched before."""
        if self._is_accepting:
            return False
        self._is_accepting = True
        for listener in self.listeners:
            self._service.reactor.watch(listener.fileno(), READ, partial(self.on_waiting, listener))
        return True

    def ignore(self) -> None:
        """Stop watching the listeners: connections wait in the kernel."""
        if self._is_accepting:
            self._is_accepting = False
            for listener in self.listeners:
                self._service.reactor.forget(listener.fileno())

    def on_waiting(self, listener: socket.socket, _events: int) -> None:
        """Accept one connection, or give other workers the time to do it."""
        if self._takers.busy and not self._service.draining:
            self._yielding = self._pause(YIELD_TIME)
        else:
            self._accept(listener)

    def on_free(self) -> None:
        """Leave connections to others no longer: an executor is free."""
        if self._yielding is not None:
            self._go_on(self._at_once)

    def on_room(self) -> None:
        """Accept again soon, if there was no room: a connection has ended."""
        if self._full is not None:
            self._full.cancel()
            self._full = None
            self._service.reactor.post(self._try_again)

    def empty_soon(self) -> None:
        """Accept what is in the queues of the kernel, or about to be, then leave."""
        self._service.reactor.call_later(ACCEPT_GRACE, self._empty)

    def leave(self) -> None:
        """Close the listeners. Never by shutdown(): their queues belong to all workers."""
        self.ignore()
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()
        self._on_left()

    def _empty(self) -> None:
        """Accept all that wait, then leave; go on later where there is no room now."""
        self._is_leaving = True
        self._end_pause()
        self.watch()
        for listener in self.listeners:
            while self._is_accepting and self._accept(listener):
                pass
        if self._is_accepting:
            self.leave()

    def _pause(self, seconds: float) -> Timer:
        self.ignore()
        return self._service.reactor.call_later(seconds, self._try_again)

    def _try_again(self) -> None:
        if self._is_leaving:
            self._empty()
        else:
            self._go_on(max(TAKEN_AT_ONCE, self._at_once))

    def _go_on(self, most: int) -> None:
        """Watch again; accept at once what waits at each listener, up to `most`."""
        self._end_pause()
        if self.watch():
            for listener in self.listeners:
                self._accept_some(listener, most)

    def _end_pause(self) -> None:
        for timer in (self._yielding, self._full):
            if timer is not None:
                timer.cancel()
        self._yielding = self._full = None

    def _accept_some(self, listener: socket.socket, most: int) -> None:
        for _ in range(most):
            # without descriptors, accept(2) fails whether anybody waits or not
            if not self._is_accepting or not _is_readable(listener) or not self._accept(listener):
                return

    def _accept(self, listener: socket.socket) -> bool:
        """Accept one connection; return whether there was one."""
        service = self._service
        is_full = len(service.connections) >= self._most
        if is_full and not self._may_make_free():
            service.troubles.not_accepted.count(self._no_room)
            self._full = self._pause(self._look_due - time.monotonic())
            return False
        try:
            client, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            self._put_off(error)
            return False
        if is_full:
            self._make_free()
        _prepare(client)
        tls = service.tls
        try:
            connection = Connection(service, client if tls is None else _encrypted(tls, client))
        except OSError as error:  # from epoll_ctl(2)
            client.close()
            self._put_off(error)
            return False
        connection.spared_until = time.monotonic() + SPARED_TIME
        if service.draining:
            connection.drain()
        return True

    def _put_off(self, error: OSError) -> None:
        """Pause after a failed accept."""
        self._service.troubles.not_accepted.count(str(error.strerror))
        if error.errno in SHORTAGES:
            self._make_free()
        self._pause(ACCEPT_RETRY_TIME)

    def _may_make_free(self) -> bool:
        """Whether any connection is idle; seldom looks, as there may be thousands."""
        now = time.monotonic()
        if now < self._look_due:
            return False
        if next(self._idle(), None) is not None:
            return True
        self._look_due = now + ACCEPT_RETRY_TIME
        return False

    def _make_free(self) -> None:
        """Close the connections that have been idle longest, if any are idle."""
        share = max(1, int(self._most * CLOSED_SHARE))
        for connection in heapq.nsmallest(share, self._idle(), key=attrgetter("deadline")):
            connection.close()

    def _idle(self) -> Iterator[Connection]:
        now = time.monotonic()
        for connection in self._service.connections:
            if connection.spared_until <= now and connection.is_idle:
                yield connection


def _most_connections(wanted: int) -> int:
    """Return how many connections there can be, as each takes a descriptor; at least one."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = wanted if limit == resource.RLIM_INFINITY else limit - SPARED_DESCRIPTORS
    return min(wanted, max(1, spare))


def _is_readable(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def _prepare(client: socket.socket) -> None:
    client.setblocking(False)
    if client.family != socket.AF_UNIX:
        # without it, the second part of a response waits for the first to be acknowledged
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT_IN_KERNEL)


def _encrypted(context: ssl.SSLContext, client: socket.socket) -> TlsSocket:
    from obworker.http.tls import TlsSocket  # loads OpenSSL, which nothing else needs

    return TlsSocket(context, client)
