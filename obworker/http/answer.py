"""The response to a request as WSGI has it made (PEP 3333), framed for its client.

Theory of operation. The head is written when the first bytes of the body are there, or its end:
until then the application may change its mind (`exc_info`), and what fails is a 500. What is whole
at once has a length, and leaves in one piece with its head; otherwise each part leaves when it is
made. A body that is not as long as its Content-Length says has failed. What fails once the head is
made is cut off, in a way that nobody takes it for whole.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from obworker.errors import RequestError
from obworker.http import response
from obworker.http.response import Framing, Headers, Opening
from obworker.log import about_request

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from obworker.http.cycle import Application, Outlet
    from obworker.http.environ import Environ
    from obworker.http.parser import Request

logger = logging.getLogger("obworker.http")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType]


class ClientGoneError(Exception):
    """Nobody is there to read the rest of the response."""


class Answer:
    """The response to `request`; a subclass sets what has no value, and says how parts are sent.

    `request_id` and `fields` are added where the application has none of that name. `head_sent`
    says that the head was made, `sent` counts the body's bytes.
    """

    request: Request
    request_id: str
    fields: Headers
    environ: Environ
    _outlet: Outlet

    status = 0
    sent = 0
    keep_alive = False
    head_sent = False
    client_gone = False
    _cut_short = False
    _opening: Opening | None = None
    _said: int | None = None
    _framing: Framing = response.CLOSE
    _remaining: int | None = None

    def _await_room(self) -> None:
        """Return when the next part may be handed over, or raise ClientGoneError."""
        raise NotImplementedError

    def _hand_over(self, framed: bytes) -> None:
        """Send bytes of the response."""
        raise NotImplementedError

    @property
    def needs_reset(self) -> bool:
        """Whether only a reset tells the client that the body is not whole.

        It would take the connection's end for the body's (RFC 9112 6.3).
        """
        return self._cut_short and self._framing is response.CLOSE

    def cut_short(self) -> None:
        """Note that the body ends where it is, which is not its end."""
        self._cut_short = True

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

    def _close(self, body: Iterable[bytes]) -> None:
        """Close the body; the response is as good as it was, whatever that raises."""
        close = getattr(body, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:
                if is_ctrl_c(error):
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
        elif self._opening is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self._opening, self._said = opening, _ = response.opening(status, headers)
        self.status = opening.status
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
        opening, said = self._opening, self._said
        if opening is None:
            raise AssertionError("the application sent a body before it called start_response")
        request, outlet = self.request.head, self._outlet
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
        self._await_room()
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
        self._hand_over(whole)

    def _fail(self) -> bytes:
        """Return a 500 where nothing was sent yet; else the connection is cut, so that it shows."""
        self.keep_alive = False
        if self.head_sent:
            self.cut_short()
            return b""
        error = RequestError()
        self.status, self.head_sent = error.status, True
        answer = response.error_response(
            error,
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


def is_ctrl_c(error: BaseException) -> bool:
    """Whether this is for the whole process: the signal's exception is the main thread's."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
