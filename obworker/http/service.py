"""What all connections of a server share: the application, the limits, the callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obworker.access_log import AccessLog
from obworker.http import response
from obworker.http.access import Access
from obworker.http.cycle import Application, Cycle
from obworker.http.forwarded import Proxies
from obworker.http.inbox import Inbox
from obworker.http.pace import Pace
from obworker.http.parser import Limits
from obworker.http.request_ids import RequestIds
from obworker.http.tally import Tally
from obworker.http.troubles import Troubles

if TYPE_CHECKING:
    import ssl

    from obworker.http.bodies import Bodies
    from obworker.http.connection import Connection
    from obworker.http.exchange import Exchange
    from obworker.http.executors import Executors
    from obworker.http.head import Head
    from obworker.http.monitor import Monitor
    from obworker.http.queue import RequestQueue
    from obworker.http.reactor import Reactor
    from obworker.settings import Settings

# When a call is stopped, which awaited ones can be, it has this long to return.
STOP_TIMEOUT = 1.0

Run = Callable[[Cycle, Callable[[bytes], object]], None]
"""Has a request answered; the callback gets the rest of the response."""


@dataclass
class Service:
    """What all connections of a server share.

    While it is `draining`, connections are closed if it `is_closing`, else they move to other
    workers. `tally` counts the responses since the last beat of the monitor.
    """

    application: Application
    settings: Settings
    reactor: Reactor
    executors: Executors
    queue: RequestQueue
    submit: Run
    exchange: Exchange | None
    bodies: Bodies
    tls: ssl.SSLContext | None
    must_queue: Callable[[str, str], bool]
    monitor: Monitor
    access: Access
    access_log: AccessLog | None
    troubles: Troubles
    on_overdue: Callable[[Cycle], None]
    on_closed: Callable[[Connection], None]

    limits: Limits = field(init=False)
    proxies: Proxies | None = field(init=False)
    request_ids: RequestIds = field(default_factory=RequestIds)
    connections: set[Connection] = field(default_factory=set)
    tally: Tally = field(default_factory=Tally)
    draining: bool = False
    is_closing: bool = False
    date: bytes = b""

    def __post_init__(self) -> None:
        """Take what follows from the settings."""
        self.limits = Limits.of(self.settings)
        self.proxies = Proxies.of(self.settings)
        self.tell_time()

    def tell_time(self) -> None:
        """Update the Date field of responses; to be called several times a second."""
        self.date = response.http_date(time.time())

    def inbox(self) -> Inbox:
        """Return a new inbox for a connection."""
        return Inbox(self.limits, self.pace(), self.bodies.open_for, self.needs_body)

    def needs_body(self, head: Head) -> bool:
        """Whether a request is to reach predict: all others are answered by their head alone."""
        environ = head.variables
        return self.must_queue(head.method, environ["PATH_INFO"]) and (
            self.access.answerer(environ) is None
        )

    def pace(self) -> Pace:
        """Return a new judge of how fast one connection sends, or reads."""
        return Pace(self.settings.min_body_rate, self.settings.body_timeout)

    def note_overdue(self, cycle: Cycle) -> None:
        """Report a predict that is past its deadline, unless it can be stopped and then returns."""
        if cycle.is_led:
            return
        if cycle.can_be_stopped:
            self.reactor.call_later(STOP_TIMEOUT, self._judge_overdue, cycle)
        else:
            self.on_overdue(cycle)

    def _judge_overdue(self, cycle: Cycle) -> None:
        if not cycle.is_over:
            self.on_overdue(cycle)
