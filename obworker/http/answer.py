"""The response of a WSGI application (PEP 3333), framed for the client.

Theory of operation. The head is written with the first bytes of the body, or at its end: until then
the application may replace the head (`exc_info`), and a failure becomes a 500. A body that is whole
at once gets a length and is sent in one piece with the head; otherwise each part is sent when it is
made. A body that does not match its Content-Length is a failure. If something fails after
the head is made, the response is cut off in a way that no client takes for its end.
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
from obworker.request_context import about_request

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from obworker.http.cycle import Application, Outlet
    from obworker.http.environ import Environ
    from obworker.http.parser import Request

logger = logging.getLogger("obworker.http")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType]


class ClientGoneError(Exception):
    """The client has gone: nobody will read the rest of the response."""


class Answer:
    """The response to `request`; a subclass sets the attributes without a value, and sends parts.

    `request_id` and `fields` are added unless the application sets fields of these names.
    `head_sent` says that the head has been made, `sent` counts the bytes of the body.
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
    _content_length: int | None = None
    _framing: Framing = response.CLOSE
    _remaining: int | None = None

    def _await_room(self) -> None:
        """Return when the next part may be handed over, or raise ClientGoneError."""
        raise NotImplementedError

    def _hand_over(self, framed: bytes) -> None:
        """Send these bytes of the response."""
        raise NotImplementedError

    @property
    def needs_reset(self) -> bool:
        """Whether only a reset tells the client that the body is incomplete.

        It would take an ordinary close for the end of the body (RFC 9112 6.3).
        """
        return self._cut_short and self._framing is response.CLOSE

    def cut_short(self) -> None:
        """Note that the body breaks off here, incomplete."""
        self._cut_short = True

    def _serve(self, application: Application, send: Callable[[Iterable[bytes]], bytes]) -> bytes:
        """Run the application and `send` its body; return the bytes that are left to send."""
        environ = self.environ
        # It refers back here: such a pair would keep the request's body until a garbage collection.
        del self.environ
        body = application(environ, self._start_response)
        if type(body) is list and len(body) == 1 and not self.head_sent:
            return self._frame_whole(body[0])
        try:
            return send(body)
        finally:
            self._close(body)

    def _close(self, body: Iterable[bytes]) -> None:
        """Close the body; an error in that (not Ctrl-C) is logged, and changes nothing else."""
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
        self._opening, self._content_length = opening, _ = response.opening(status, headers)
        self.status = opening.status
        return self._write

    def _frame_whole(self, body: bytes) -> bytes:
        """Return a whole response for a single write: the usual case, and the fast one."""
        if type(body) is not bytes:
            body = _as_bytes(body)
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
        """Send each part when it is made; return the bytes that end the response."""
        for part in body:
            if part:
                self._write(part)
            elif self.client_gone:
                raise ClientGoneError
            if self.head_sent and self._framing is response.NO_BODY:
                return b""  # the rest is not sent, and may be endless
        head = b"" if self.head_sent else self._start(0)
        if self._remaining:
            raise ValueError(f"the body ended {self._remaining} bytes before its Content-Length")
        self.head_sent = True
        return head + (response.LAST_CHUNK if self._framing is response.CHUNKED else b"")

    def _start(self, length: int | None) -> bytes:
        """Decide on framing and persistence, return the head; `length` is that of a whole body."""
        opening, content_length = self._opening, self._content_length
        if opening is None:
            raise AssertionError("the application sent a body before it called start_response")
        request, outlet = self.request.head, self._outlet
        if self.status == 204:  # RFC 9110 8.6
            content_length = None
        known = length if content_length is None else content_length
        self._framing = framing = response.framing(
            request.method, request.version, self.status, known
        )
        if framing is response.LENGTH:
            self._remaining = content_length = known
        self.keep_alive = (
            request.keep_alive and framing is not response.CLOSE and outlet.may_persist
        )
        return response.head(
            opening,
            length=content_length,
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
            part = _as_bytes(part)
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
        """Return a 500 if no head has been made; else note that the response is cut short."""
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


def _as_bytes(part: ReadableBuffer) -> bytes:
    """Return the bytes of another buffer, whose len() may count something else, as array items."""
    return memoryview(part).tobytes()


def is_ctrl_c(error: BaseException) -> bool:
    """Whether this is Ctrl-C for the whole process: SIGINT's exception, in the main thread."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
