"""Accepts connections from listeners that all workers share.

Theory of operation. Every worker watches the listeners, and takes one connection at a time, so that
workers take turns. One whose executors are busy leaves a new connection to the others for a moment.
If it is still there then, they are busy as well, and it takes some at once: else a crowd that comes
to a busy service would keep everybody waiting who comes after it.
"""

from __future__ import annotations

import errno
import heapq
import resource
import select
import socket
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from obworker.http.connection import Connection
from obworker.http.reactor import READ, Timer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from obworker.http.queue import Takers
    from obworker.http.service import Service
    from obworker.http.tls import TlsSocket
    from obworker.settings import Settings

# A worker without a free executor leaves a new connection to the others for this long.
YIELD_TIME = 0.005
# Then it takes so many: each takes the loop some 0.1 ms.
TAKEN_AT_ONCE = 16
# Out of descriptors: a listener stays readable, so accepting again at once would spin.
ACCEPT_RETRY_TIME = 0.5
# What is wanting where it is for who is here already; else it is the new one's trouble (accept(2)).
WANT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})
# From the moment a stop is asked for, a handshake that is under way has this long to complete.
ACCEPT_GRACE = 0.2
# Descriptors for everything that is no connection: the predictor's files, for one.
SPARED_DESCRIPTORS = 64
# Where every place is taken, this part of them is made free at once: to find the oldest takes time.
MADE_FREE = 0.01
# The kernel keeps no more than this for a connection beside what is on its way (tcp_notsent_lowat
# in the kernel's ip-sysctl). It would take megabytes at once: to copy them would hold up others,
# and of a client that reads nothing nobody would know.
KERNELS_SHARE = 128 << 10

_is_idle = attrgetter("is_idle")


class Acceptor:
    """Makes connections of those who come; for the event loop's thread.

    Where one is free, `at_once` are taken, as many as a call can answer. `on_left` is called once
    it has let go of all listeners.
    """

    def __init__(
        self,
        service: Service,
        takers: Takers,
        listeners: Sequence[socket.socket],
        settings: Settings,
        *,
        at_once: int,
        on_left: Callable[[], None],
    ) -> None:
        self.listeners = list(listeners)
        self._service = service
        self._takers = takers
        self._backlog = settings.backlog
        self._most = _most_connections(settings.max_connections)
        self._no_room = f"there are {self._most} and none is idle, see --max-connections"
        self._at_once = at_once
        self._on_left = on_left
        self._yielding: Timer | None = None
        self._is_accepting = self._is_leaving = False

    def start(self) -> None:
        """Listen and accept: until the first worker does, the bound port refuses clients."""
        for listener in self.listeners:
            listener.setblocking(False)
            listener.listen(self._backlog)
        self.watch()

    def watch(self) -> bool:
        """Accept who comes; return whether it did not before."""
        if self._is_accepting:
            return False
        self._is_accepting = True
        for listener in self.listeners:
            self._service.reactor.watch(listener.fileno(), READ, partial(self.on_waiting, listener))
        return True

    def ignore(self) -> None:
        """Let them wait."""
        if self._is_accepting:
            self._is_accepting = False
            for listener in self.listeners:
                self._service.reactor.forget(listener.fileno())

    def on_waiting(self, listener: socket.socket, _events: int) -> None:
        """Accept one, or give others the time to do it."""
        if self._takers.busy and not self._service.draining:
            self._yielding = self._pause(YIELD_TIME)
        else:
            self._accept(listener)

    def on_free(self) -> None:
        """Yield no longer: an executor is free."""
        if self._yielding is not None:
            self._go_on(self._at_once)

    def empty_soon(self) -> None:
        """Take what the kernel has accepted for us, or is about to, then leave."""
        self._service.reactor.call_later(ACCEPT_GRACE, self._empty)

    def leave(self) -> None:
        """Accept no more. Never shutdown(): the queues belong to all workers."""
        self.ignore()
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()
        self._on_left()

    def _empty(self) -> None:
        """Take all who wait, then leave; those for whom there is no room, once there is some."""
        self._is_leaving = True
        self.watch()
        for listener in self.listeners:
            while self._is_accepting and self._accept(listener):
                pass
        if self._is_accepting:
            self.leave()

    def _pause(self, seconds: float) -> Timer:
        self.ignore()
        reactor = self._service.reactor
        if self._is_leaving:
            return reactor.call_later(seconds, self._empty)
        return reactor.call_later(seconds, self._go_on, max(TAKEN_AT_ONCE, self._at_once))

    def _go_on(self, most: int) -> None:
        """Accept again, at once so many of each listener as wait, at most."""
        if self._yielding is not None:
            self._yielding.cancel()
            self._yielding = None
        if self.watch():
            for listener in self.listeners:
                self._accept_some(listener, most)

    def _accept_some(self, listener: socket.socket, most: int) -> None:
        for _ in range(most):
            # without descriptors, accept(2) fails whether anybody waits or not
            if not self._is_accepting or not _is_readable(listener) or not self._accept(listener):
                return

    def _accept(self, listener: socket.socket) -> bool:
        """Accept one connection; return whether there was one."""
        service = self._service
        is_full = len(service.connections) >= self._most
        if is_full and not any(map(_is_idle, service.connections)):
            service.troubles.not_accepted.count(self._no_room)
            self._pause(ACCEPT_RETRY_TIME)
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
        except OSError as error:  # by epoll_ctl(2)
            client.close()
            self._put_off(error)
            return False
        if service.draining:
            connection.drain()
        return True

    def _put_off(self, error: OSError) -> None:
        """Let those who wait wait, for no connection can be had."""
        self._service.troubles.not_accepted.count(str(error.strerror))
        if error.errno in WANT:
            self._make_free()
        self._pause(ACCEPT_RETRY_TIME)

    def _make_free(self) -> None:
        """Close the connections that are idle longest, where any are."""
        idle = filter(_is_idle, self._service.connections)
        for connection in heapq.nsmallest(
            max(1, int(self._most * MADE_FREE)), idle, key=attrgetter("deadline")
        ):
            connection.close()


def _most_connections(wanted: int) -> int:
    """Return how many connections there can be, one at least, for each takes a descriptor."""
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
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNELS_SHARE)


def _encrypted(context: ssl.SSLContext, client: socket.socket) -> TlsSocket:
    from obworker.http.tls import TlsSocket  # with OpenSSL, which nobody else needs

    return TlsSocket(context, client)
