"""Response bodies that are sent as they are produced, such as of a generator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
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


class Body(Iterator[bytes]):
    """A body whose parts are produced in the request's own context (PEP 3333).

    `parts` may differ from `source`, which is what has to be closed. `on_error` is called with
    whatever is raised; then the server gets BrokenOff, as after the headers it can only cut the
    connection. `on_close` lets go of what the request held.
    """

    def __init__(
        self,
        parts: Iterable[bytes],
        source: object,
        context: Context,
        on_error: Callable[[BaseException], None],
        on_close: Callable[[], None],
    ) -> None:
        self._parts = iter(parts)
        self._source = source
        self._context = context
        self._on_error = on_error
        self._on_close = on_close

    def __next__(self) -> bytes:
        return self._context.run(self._produce)

    def _produce(self) -> bytes:
        try:
            return next(self._parts)
        except StopIteration:
            raise
        except Exception as error:
            self._on_error(error)
            raise BrokenOff(f"the response raised {type(error).__name__}") from error

    def close(self) -> None:
        """Close what produces the parts, then let go of what the request held."""
        try:
            self._context.run(_close, self._source)
        finally:
            self._context.run(self._on_close)


class Stream(Body):
    """The body of a streamed reply: the items of an iterator, encoded one by one.

    Making one pulls the first item, so that what fails early fails before any header is sent.
    """

    def __init__(
        self,
        items: Iterator[object],
        accept: str,
        context: Context,
        on_error: Callable[[BaseException], None],
        on_close: Callable[[], None],
    ) -> None:
        events = asks_for_events(accept)
        encode = encode_event if events else encode_item
        try:
            first = _first_of(items)
            parts = () if first is _END else _encoded(encode(first), items, encode)
        except BaseException:
            _close(items)
            raise
        self.headers = list(EVENT_HEADERS) if events else [("Content-Type", _content_type(first))]
        super().__init__(parts, items, context, on_error, on_close)

    def start(self, start_response: StartResponse) -> None:
        """Start the response, which may call the user's code; in the request's context."""
        try:
            start_response("200 OK", self.headers)
        except BaseException:
            _close(self._source)
            raise


def _close(source: object) -> None:
    close = getattr(source, "close", None)
    if close is not None:
        close()


def _encoded(
    first: bytes, rest: Iterator[object], encode: Callable[[object], bytes]
) -> Iterator[bytes]:
    yield first
    with suppress(Abandoned):  # the server has told us so itself, and sends nothing
        yield from map(encode, rest)


def _first_of(items: Iterator[object]) -> object:
    """Return the first item, or _END.

    Raises:
        ReplyError: there is no item, but the generator has returned a value.
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
