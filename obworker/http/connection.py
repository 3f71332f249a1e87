"""One client's connection: reads, starts whole requests one at a time, writes, keeps deadlines.

Theory of operation. Everything here runs in the event loop's thread except `write`, `may_persist`
and `date`, which a cycle calls from its executor thread. A connection is in one of the states of
state.py, and its deadline belongs to the state.

There are no timers: the server checks every connection's deadline four times a second. While bytes
wait to be sent, that deadline does not apply, and the deadline of a cycle that is held up is moved:
what counts then is that the client goes on reading. Requests that arrive during another are served
in order, and reading stops until then. The next one only starts once the last response has left,
but for CLOGGED_AT bytes: so endless pipelining takes no more memory than one read does.

Between two requests, and while one waits, a connection can move: another worker gets the socket and
the bytes of the waiting request, and goes on as if it had received them from the client.

A lost connection is kept until its cycle has ended: so a stuck predict is found even if its client
has left, and a draining server waits for it.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from obworker.errors import GatewayTimeout, RequestError, RequestTimeout
from obworker.http import response
from obworker.http.cycle import Cycle
from obworker.http.environ import base_of
from obworker.http.exchange import Exchange, Parcel
from obworker.http.monitor import UNWATCHED, Monitor
from obworker.http.pending import Pending, refuse_incomplete
from obworker.http.rewriting import rewrite_head
from obworker.http.state import BODY, HEADER, IDLE, LINGERING, RESPONDING, WAITING
from obworker.http.stream import Outflow, Owner, Stream

if TYPE_CHECKING:
    from obworker.http.parser import Request
    from obworker.http.service import Run, Service
    from obworker.http.spool import Spool
    from obworker.http.tls import TlsSocket

LINGER_TIMEOUT = 2.0
# How long a draining server waits for one more request on an idle connection: it may be on its way
# already, and a client rarely sends on a connection that it left idle for longer.
DRAIN_IDLE_TIMEOUT = 1.0
# The same for the rest of a head or TLS handshake: a packet may get lost twice (RFC 6298 2.1, 5.5).
DRAIN_BEGUN_TIMEOUT = 5.0


class Connection(Owner):
    """A client's connection; also the outlet of the cycle that answers it."""

    def __init__(self, service: Service, client: socket.socket | TlsSocket) -> None:
        self.state = IDLE
        self.is_lost = self._half_closed = False
        # until then, or its first request, it is not closed for lack of room
        self.spared_until = 0.0
        # about a request that has moved here: when it was whole, and how often it has moved
        self._moved_arrival: float | None = None
        self._attempt = 0
        self._service = service
        self._base = base_of(client)
        proxies = service.proxies
        self._proxies = proxies if proxies and proxies.trusts(self._base["REMOTE_ADDR"]) else None
        self._stream = Stream(service.reactor, client, self)
        settings = service.settings
        self.deadline = time.monotonic() + max(settings.keep_alive, settings.header_timeout)
        self._inbox = service.inbox()
        # the request that waits or is being answered
        self._pending: Pending | None = None
        self._cycle: Cycle | None = None
        self._outflow = Outflow(self._stream, service.pace())
        service.connections.add(self)

    # Owner: called by the stream

    def on_received(self, chunk: bytes) -> None:
        """Parse what has arrived, and serve the requests that are complete."""
        if self.state is not LINGERING:
            self._inbox.feed(chunk)
            self._advance()

    def on_garbled(self, why: str) -> None:
        """Let the client read why, and close; a request under way is lost, at once."""
        self._service.troubles.garbled.count(why)
        (self._linger if self._pending is None else self.close)()

    def on_end(self) -> None:
        """Close, but only when what is under way is answered and sent (RFC 9112 9.6)."""
        self._half_closed = True
        if self._pending is not None and self._cycle is None:
            self._stream.send(self._pending.interim())  # a client that has left resets it
        if self.state in (WAITING, RESPONDING) or self._stream.unsent:
            self._stream.pause_reading()
            if self.state is LINGERING:
                self._stream.close_when_flushed()
        else:
            self.close()

    def on_flushed(self) -> None:
        """Let the cycle go on, or start the next request."""
        cycle = self._cycle
        if cycle is None:
            self._advance_unless_over()
        elif cycle.is_held_up:
            cycle.let_go_on()

    def on_lost(self) -> None:
        """Free what has arrived; tell the cycle, if any, else end the connection."""
        self.is_lost = True
        self._inbox.drop_all()
        if self._cycle is not None:
            self._cycle.lose_client()
            return
        if self.state is WAITING:
            self._service.queue.leave(self)
            self._forget_request()
        self._service.on_closed(self)

    # Outlet: called by the cycle, from its thread

    @property
    def may_persist(self) -> bool:
        """Whether the connection stays open after the current response.

        A request that has arrived already is answered even if it is the last.
        """
        service = self._service
        if service.settings.keep_alive == 0:
            return False
        # in this order: a request may arrive in between, and then the client's end
        may_follow = not (self._half_closed or service.is_closing)
        return may_follow or bool(self._inbox.requests)

    @property
    def date(self) -> bytes:
        """The Date field for a response that starts now."""
        return self._service.date

    def write(self, cycle: Cycle, part: bytes) -> None:
        """Have the loop's thread send a part of the response."""
        executors = self._service.executors
        executors.call(self._write, cycle, part)
        if cycle.is_held_up:
            executors.relieve()

    # Waiter: called by the queue

    @property
    def arrival(self) -> float:
        """The monotonic time at which the waiting request was whole."""
        assert self._pending is not None
        return self._pending.arrival

    def serve(self) -> None:
        """Give the waiting request to an executor."""
        self._run(self._service.submit, self._service.monitor)

    def refuse(self, error: RequestError) -> None:
        """Answer the waiting request with an error; another request may follow."""
        pending = self._pending
        assert pending is not None
        self.state = RESPONDING
        may_persist = self.may_persist and not self._service.queue.refuses
        keep_alive = pending.request.head.keep_alive and may_persist
        self._stream.send(pending.refusal(error, keep_alive=keep_alive))
        self._forget_request()
        self._go_on(keep_alive=keep_alive)

    def move(self, exchange: Exchange) -> bool:
        """Move the connection and its request to any free worker; return whether that worked."""
        pending = self._pending
        assert pending is not None
        if not self._is_movable:
            return False
        request = pending.request
        return self._give_away(exchange, rewrite_head(request), request.body, pending.arrival)

    # Server: called after a move to this worker, by the ticker, on draining, and for lack of room

    def bring(self, parcel: Parcel) -> None:
        """Go on after a move, with the request that the other worker received, if any."""
        if parcel.head:
            self._moved_arrival, self._attempt = parcel.arrival, parcel.attempt + 1
            self._inbox.feed_whole(parcel.head, parcel.body)
        self._advance()

    @property
    def is_idle(self) -> bool:
        """Whether all responses have left, and nothing of the next request has arrived."""
        return self.state is IDLE and self._stream.is_at_rest

    def check(self, now: float) -> None:
        """Act on deadlines that have passed, and on a client that is too slow."""
        if self.is_lost:
            if self._cycle is not None:
                self._check_cycle(self._cycle, now)
        elif self._outflow.is_too_slow(now):
            self._stream.reset()  # else the kernel would go on sending what it has
            self.on_lost()
        elif self._cycle is not None:
            if self._cycle.is_held_up:
                self._cycle.excuse(now)
            else:
                self._check_cycle(self._cycle, now)
        elif self._stream.unsent:
            if self.state is LINGERING:  # the time counts from the last byte
                self.deadline = now + LINGER_TIMEOUT
        elif self._is_overdue(now):
            self._give_up()

    def _is_overdue(self, now: float) -> bool:
        if self.state is WAITING:
            return False
        return now >= self.deadline or (self.state is BODY and self._inbox.is_too_slow(now))

    def fail(self, error: RequestError) -> None:
        """Give up a running predict, if any; its thread stays busy until predict returns."""
        if (cycle := self._cycle) is None:
            return
        cycle.leave_predict()
        if cycle.is_under_way:
            cycle.cut_short()
        else:
            cycle.status = error.status
            if not self.is_lost and self._pending is not None:
                answer = self._pending.error(error, keep_alive=False)
                cycle.sent = response.body_size(answer)
                self._stream.send(answer)
        cycle.lose_client()
        self._end_cycle(cycle, keep_alive=False)

    def drain(self) -> None:
        """Move or close once what is under way is answered; the last response says so."""
        if self.is_lost or self.state not in (IDLE, HEADER):
            return
        service, now = self._service, time.monotonic()
        if service.is_closing or not self._is_movable or service.exchange is None:
            has_begun = self.state is HEADER or self._stream.is_shaking_hands
            patience = DRAIN_BEGUN_TIMEOUT if has_begun else DRAIN_IDLE_TIMEOUT
            self.deadline = min(self.deadline, now + patience)
        elif not self._give_away(service.exchange, b"", b"", now):
            service.reactor.call_later(DRAIN_IDLE_TIMEOUT, self.drain)

    def close(self) -> None:
        """Close at once, and drop what is left to send."""
        self._stream.close()
        self.on_lost()

    # internal, all in the loop's thread

    @property
    def _is_movable(self) -> bool:
        """Whether another worker needs nothing but the socket and the waiting request."""
        is_here = self._half_closed or self._stream.unsent or not self._inbox.is_empty
        return not is_here and self._service.tls is None

    def _give_away(
        self, exchange: Exchange, head: bytes, body: bytes | Spool, arrival: float
    ) -> bool:
        client = self._stream.socket
        assert isinstance(client, socket.socket)
        if not exchange.put(Parcel(client, head, body, arrival, self._attempt)):
            return False
        self._stream.let_go()
        self._inbox.drop_all()
        self.is_lost = True
        self._service.on_closed(self)
        return True

    def _advance(self) -> None:
        """Do what is next: let the cycle work, start a request, refuse, or await bytes."""
        inbox, stream = self._inbox, self._stream
        if self.is_lost:
            return
        if self._pending is not None or (stream.unsent and stream.is_clogged):
            if inbox.requests:
                stream.pause_reading()
        elif inbox.requests:
            self._begin(inbox.take())
        elif inbox.refusal is not None:
            self._send_error(inbox.refusal)
        elif self._half_closed:
            self._linger()
        elif not stream.unsent:  # otherwise when all is sent: the next deadline starts then
            self._await_bytes()

    def _advance_unless_over(self) -> None:
        if self.state is not LINGERING:
            self._advance()

    def _begin(self, request: Request) -> None:
        service = self._service
        self.state, self.spared_until = WAITING, 0.0
        arrival = self._moved_arrival or time.monotonic()
        self._pending = pending = Pending(service, request, self._base, self._proxies, arrival)
        if pending.at_once:
            request.body = b""  # only the head is needed, however large the body is
            self._run(service.executors.run_now, UNWATCHED)
        else:
            service.queue.enter(self)

    def _run(self, run: Run, monitor: Monitor) -> None:
        assert self._pending is not None
        self.state = RESPONDING
        self._cycle = cycle = self._pending.start(self, monitor)
        run(cycle, self._finish)

    def _await_bytes(self) -> None:
        now, settings = time.monotonic(), self._service.settings
        if not self._inbox.has_begun:
            if self.state is not IDLE:  # empty lines before a request give no more time
                self.state, self.deadline = IDLE, now + settings.keep_alive
        elif self._inbox.in_body:
            if self.state is not BODY:
                self.state = BODY
                self._inbox.start_body(now)
            self.deadline = now + settings.body_timeout
            if self._inbox.take_expectation():
                self._stream.send(response.CONTINUE)
        elif self.state is not HEADER:
            self.state, self.deadline = HEADER, now + settings.header_timeout
        if self._service.draining:
            self.drain()

    def _write(self, cycle: Cycle, part: bytes) -> None:
        if cycle is not self._cycle or self.is_lost:
            return  # the cycle knows: `lose_client` was called
        cycle.is_under_way = True
        self._stream.send(part)
        if self._stream.is_clogged:
            cycle.hold_up()
        else:
            cycle.make_room()

    def _finish(self, rest: bytes) -> None:
        cycle = self._cycle
        if cycle is not None:  # else it was given up, and no other follows
            if not self.is_lost:
                self._stream.send(rest)
            self._end_cycle(cycle, keep_alive=cycle.keep_alive)

    def _end_cycle(self, cycle: Cycle, *, keep_alive: bool) -> None:
        assert self._pending is not None
        self._pending.note_end(cycle)
        self._forget_request()
        if self.is_lost:
            self._service.on_closed(self)
        elif not keep_alive and cycle.needs_reset:
            self._stream.reset()
            self.on_lost()
        else:
            self._go_on(keep_alive=keep_alive)

    def _forget_request(self) -> None:
        self._cycle = self._pending = self._moved_arrival = None
        self._attempt = 0

    def _go_on(self, *, keep_alive: bool) -> None:
        """Continue, or end the connection, after a response."""
        if not keep_alive:
            self._linger()
        elif self._inbox.requests:  # posted: a thousand would nest as many calls
            self._service.reactor.post(self._advance_unless_over)
        else:
            if self._stream.is_paused and not self._half_closed:
                self._stream.resume_reading()
            self._advance()

    def _check_cycle(self, cycle: Cycle, now: float) -> None:
        if now >= cycle.deadline:
            self.fail(GatewayTimeout())
            self._service.note_overdue(cycle)

    def _give_up(self) -> None:
        if self.state in (HEADER, BODY):
            self._send_error(RequestTimeout("the request took too long to arrive"))
        else:
            self.close()

    def _send_error(self, error: RequestError) -> None:
        """Answer a request that never became whole, and take no other."""
        head = self._inbox.head
        self._stream.send(refuse_incomplete(self._service, head, self._base, self._proxies, error))
        self._linger()

    def _linger(self) -> None:
        """Close our half, and read on for a while, so that the client can read all we sent.

        Closing both halves with bytes unread would reset the connection, and lose the response.
        """
        if self.is_lost:
            return
        self._inbox.requests.clear()
        self.state, self.deadline = LINGERING, time.monotonic() + LINGER_TIMEOUT
        if self._half_closed:
            self._stream.close_when_flushed()
        else:
            self._stream.close_half()
