"""An iterator that predict returned becomes a body that is sent as it is produced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from obworker.errors import BrokenOff
from obworker.predictor.accept import EVENT_STREAM, asks_for_events
from obworker.predictor.encoding import BYTES, ReplyError, to_json
from obworker.predictor.errands import Abandoned
from obworker.predictor.reply import TEXT, recognise

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from _typeshed.wsgi import StartResponse

JSON_LINES = "application/x-ndjson"
# A proxy that collected events before passing them on would defeat their purpose.
EVENT_HEADERS = [
    ("Content-Type", EVENT_STREAM),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
]
_END = object()
_LINE_END = re.compile(r"\r\n|\n|\r")  # the three that the event stream format knows


class Stream(Iterator[bytes]):
    """The body of a streamed reply (PEP 3333: an iterable with close).

    Making one pulls the first item, so that what fails early fails before any header is sent.
    Each item is produced in `context`, the request's own. `on_error` hears of what is raised
    after the headers, then the server does: cutting the connection is all that is left.
    """

    def __init__(
        self,
        items: Iterator[object],
        accept: str,
        context: Context,
        on_error: Callable[[BaseException], None],
        on_close: Callable[[], None],
    ) -> None:
        self._items = items
        self._context = context
        self._on_error = on_error
        self._on_close = on_close
        events = asks_for_events(accept)
        self._encode = encode_event if events else encode_item
        try:
            first = _first_of(items)
            self._ready = None if first is _END else self._encode(first)
        except BaseException:
            self._close_items()
            raise
        self.headers = list(EVENT_HEADERS) if events else [("Content-Type", _content_type(first))]
        self._ended = first is _END

    def start(self, start_response: StartResponse) -> None:
        """Start the response, which may call the user's code; in the request's context."""
        try:
            start_response("200 OK", self.headers)
        except BaseException:
            self._close_items()
            raise

    def __next__(self) -> bytes:
        if self._ready is not None:
            ready, self._ready = self._ready, None
            return ready
        if self._ended:
            raise StopIteration
        return self._context.run(self._produce)

    def close(self) -> None:
        """Close the user's generator, then let go of what the request held."""
        self._ended = True
        try:
            self._context.run(self._close_items)
        finally:
            self._context.run(self._on_close)

    def _close_items(self) -> None:
        close = getattr(self._items, "close", None)
        if close is not None:
            close()

    def _produce(self) -> bytes:
        try:
            return self._encode(next(self._items))
        except StopIteration:
            self._ended = True
            raise
        except Abandoned:  # the server has told us itself, and sends nothing
            self._ended = True
            raise StopIteration from None
        except Exception as error:
            self._ended = True
            self._on_error(error)
            raise BrokenOff(f"the stream raised {type(error).__name__}") from error


class Continued(Iterator[bytes]):
    """A body that somebody else made, produced in the request's own context as Stream's is."""

    def __init__(
        self,
        parts: Iterable[bytes],
        context: Context,
        on_error: Callable[[BaseException], None],
        on_close: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._iterator = iter(parts)
        self._context = context
        self._on_error = on_error
        self._on_close = on_close

    def __next__(self) -> bytes:
        return self._context.run(self._produce)

    def _produce(self) -> bytes:
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except Exception as error:
            self._on_error(error)
            raise BrokenOff(f"the response raised {type(error).__name__}") from error

    def close(self) -> None:
        """Close the body, then let go of what the request held."""
        try:
            close = getattr(self._parts, "close", None)
            if close is not None:
                self._context.run(close)
        finally:
            self._context.run(self._on_close)


def _first_of(items: Iterator[object]) -> object:
    """Return the first item, or _END.

    Raises:
        ReplyError: there is none but a value, of a function that has a yield and did not come by.
    """
    try:
        return next(items)
    except StopIteration as end:
        if end.value is not None:
            kind = type(end.value).__name__
            raise ReplyError(f"a {kind} from a function with a yield: that streams") from None
        return _END


def encode_item(item: object) -> bytes:
    """Return str and bytes as they are, anything else as a line of JSON."""
    if isinstance(item, str):
        return item.encode("utf-8", "replace")
    if isinstance(item, BYTES):
        return bytes(item)
    return to_json(item) + b"\n"


def encode_event(item: object) -> bytes:
    """Return `item` as one Server-Sent Event."""
    if isinstance(item, BYTES):
        item = bytes(item).decode("utf-8", "replace")
    if not isinstance(item, str):
        return b"data: " + to_json(item) + b"\n\n"
    lines = "".join(f"data: {line}\n" for line in _LINE_END.split(item))
    return f"{lines}\n".encode("utf-8", "replace")


def _content_type(first: object) -> str:
    if isinstance(first, str) or first is _END:
        return TEXT
    if isinstance(first, BYTES):
        return recognise(bytes(first))
    return JSON_LINES
