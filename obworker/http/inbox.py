"""What a client has sent and is not started yet: whole requests, and a part of the next."""

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

# A client can send thousands at once. A parsed head takes thirty times its size in memory, and 5 µs
# of the loop's time. After this many requests the rest is kept unparsed.
MOST_REQUESTS = 64


class Inbox:
    """Parses what a client sends into `requests`; `pace` judges how fast a body arrives.

    `refusal` is the error in what follows `requests`; nothing after it is parsed.
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
        """Parse bytes that have arrived."""
        self._received += len(chunk)
        if self.refusal is None:
            try:
                self._parser.feed(chunk)
            except RequestError as refusal:
                # The frames of its traceback would keep what has arrived in memory until a
                # garbage collection.
                self.refusal = refusal.with_traceback(None)
                refusal.__cause__ = refusal.__context__ = None
            except MemoryError:
                self.refusal = ServiceUnavailable(NO_MEMORY, why=WHY)

    def feed_whole(self, head: bytes, body: bytes | Spool) -> None:
        """Take a whole request that another worker has received."""
        self.feed(head)
        if self.refusal is None and self._parser.in_body:
            self._parser.take_body(body)

    def take(self) -> Request:
        """Remove and return the first of `requests`; parse on if none is left."""
        request = self.requests.popleft()
        if not self.requests and not self._parser.room:
            self._parser.room = MOST_REQUESTS
            self.feed(b"")
        return request

    def drop_all(self) -> None:
        """Free what has arrived, without a garbage collection; nothing is fed after that."""
        self.requests.clear()
        self._parser.retire()

    def request_received(self, request: Request) -> None:
        """Keep a whole request; called by the parser."""
        self._continue_expected = False
        self.requests.append(request)

    def continue_expected(self) -> None:
        """Note that the client waits for 100 Continue; called by the parser."""
        self._continue_expected = True

    @property
    def has_begun(self) -> bool:
        """Whether a part of a request has arrived, but not all of it."""
        return self._parser.has_begun

    @property
    def in_body(self) -> bool:
        """Whether a body is being received, even if it is dropped."""
        return self._parser.in_body

    @property
    def head(self) -> Head | None:
        """The head of the request whose body is arriving, or was refused."""
        return self._parser.head

    @property
    def is_empty(self) -> bool:
        """Whether nothing is here that another worker would need to go on."""
        parser = self._parser
        is_between = not parser.has_begun and not parser.in_body
        return is_between and not self.requests and self.refusal is None

    def take_expectation(self) -> bool:
        """Return whether the client waits for 100 Continue; only the first call says so."""
        expected, self._continue_expected = self._continue_expected, False
        return expected

    def start_body(self, now: float) -> None:
        """Begin to judge the pace of the body."""
        self._pace.start(now, self._received)

    def is_too_slow(self, now: float) -> bool:
        """Whether the body arrives too slowly."""
        return self._pace.is_too_slow(now, self._received)
