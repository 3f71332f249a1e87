"""What a client has sent: whole requests in order, the beginning of one, and what ends them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from obworker.errors import RequestError, ServiceUnavailable
from obworker.http.parser import Limits, Request, RequestParser
from obworker.http.spool import NO_MEMORY, WHY

if TYPE_CHECKING:
    from obworker.http.head import Head
    from obworker.http.pace import Pace
    from obworker.http.parser import BodyFor, NeedsBody
    from obworker.http.spool import Spool

# A client can send thousands at once. A head takes thirty times as much as its bytes, and 5 µs of
# the loop's time; what comes after so many stays as it came.
MOST_REQUESTS = 64


class Inbox:
    """Collects what a parser finds; `pace` judges how fast a body comes.

    `refusal` is what is wrong with what comes after `requests`; nothing follows it.
    """

    def __init__(
        self, limits: Limits, pace: Pace, body_for: BodyFor, needs_body: NeedsBody
    ) -> None:
        self.requests: deque[Request] = deque()
        self.refusal: RequestError | None = None
        self._parser = RequestParser(limits, self, body_for, needs_body)
        self._parser.room = MOST_REQUESTS
        self._pace = pace
        self._received = 0
        self._continue_expected = False

    def feed(self, chunk: bytes) -> None:
        """Take bytes as they came."""
        self._received += len(chunk)
        if self.refusal is None:
            try:
                self._parser.feed(chunk)
            except RequestError as refusal:
                # Its frames have all that has come, and would keep it for a garbage collection.
                self.refusal = refusal.with_traceback(None)
                refusal.__cause__ = refusal.__context__ = None
            except MemoryError:
                self.refusal = ServiceUnavailable(NO_MEMORY, why=WHY)

    def feed_whole(self, head: bytes, body: bytes | Spool) -> None:
        """Take a request of which all is there."""
        self.feed(head)
        if self.refusal is None and self._parser.in_body:
            self._parser.take_body(body)

    def take(self) -> Request:
        """Return the first of `requests`; it is empty then only if no other has come."""
        request = self.requests.popleft()
        if not self.requests and not self._parser.room:
            self._parser.room = MOST_REQUESTS
            self.feed(b"")
        return request

    def drop_all(self) -> None:
        """Let go of what has come, at once and not when garbage is collected; nothing follows."""
        self.requests.clear()
        self._parser.retire()

    def request_received(self, request: Request) -> None:
        """Keep a whole request: the parser found it."""
        self._continue_expected = False
        self.requests.append(request)

    def continue_expected(self) -> None:
        """Remember that the client waits for leave to send the body: the parser says so."""
        self._continue_expected = True

    @property
    def has_begun(self) -> bool:
        """Whether a request has begun and is not whole."""
        return self._parser.has_begun

    @property
    def in_body(self) -> bool:
        """Whether that request's body is coming."""
        return self._parser.in_body

    @property
    def head(self) -> Head | None:
        """The head of the request whose body is coming, or of which no more is taken."""
        return self._parser.head

    @property
    def is_empty(self) -> bool:
        """Whether nothing is here that another worker would have to know of."""
        parser = self._parser
        is_between = not parser.has_begun and not parser.in_body
        return is_between and not self.requests and self.refusal is None

    def take_expectation(self) -> bool:
        """Say once whether the client waits for leave to send the body."""
        expected, self._continue_expected = self._continue_expected, False
        return expected

    def start_body(self, now: float) -> None:
        """Judge the body's pace from here on."""
        self._pace.start(now, self._received)

    def is_too_slow(self, now: float) -> bool:
        """Whether the body comes too slowly."""
        return self._pace.is_too_slow(now, self._received)
