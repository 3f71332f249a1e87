"""emit_event: what a predictor reports about the current request.

Imported by every ``import obworker``, so it must be light. It never fails or delays a request.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from contextvars import ContextVar
from numbers import Number
from urllib.parse import urlsplit

from obworker.request_context import about_request
from obworker.request_context import request_id as log_id

RECORDER_URL = "http://127.0.0.1:6666/events"
RECORDER_TIMEOUT = 1.0
MAX_WAITING_EVENTS = 1000
LARGEST_ID = 2**64 - 1  # what MessagePack holds

log = logging.getLogger("obworker.events")

# X-Openbayes-Serving-Request-Id of the current request, as it was sent.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def emit_event(name: str, data: object, id: int | None = None) -> None:
    """Report `data` as the event `name` of the current request, or of the request `id`."""
    _holder.recorder.emit(name, data, id)


def flush(timeout: float) -> bool:
    """Wait until every event is sent or given up; return False after `timeout` seconds."""
    return _holder.recorder.flush(timeout)


def install(recorder: Recorder) -> Recorder:
    """Send events to `recorder` from now on; return the previous one."""
    before, _holder.recorder = _holder.recorder, recorder
    return before


class Recorder:
    """Where events go: to the platform's recorder at `url`, or to the log where it is None."""

    def __init__(
        self,
        url: str | None = None,
        timeout: float = RECORDER_TIMEOUT,
        max_waiting: int = MAX_WAITING_EVENTS,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._max_waiting = max_waiting
        # By pid: after a fork the thread is not there, and the lock may be held for ever.
        self._senders: dict[int, _Sender] = {}

    def emit(self, name: str, data: object, id_: int | None) -> None:
        """Send the event; log why where that cannot be done."""
        if self._url is None:
            log.info("event %s: %s", name, _shown(data))
            return
        number = _current_id() if id_ is None else id_
        if not isinstance(number, int) or not 0 <= number <= LARGEST_ID:
            log.warning("event %s not sent: %r is not a request id", name, number)
            return
        try:
            message = _pack(number, name, data)
        except Exception as error:  # noqa: BLE001  # whatever a value of the user's raises
            log.warning("event %s not sent: %s", name, error)
            return
        self._sender(self._url).put(name, message)

    def flush(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until all is sent; return whether it is."""
        sender = self._senders.get(os.getpid())
        return sender is None or sender.flush(timeout)

    def _sender(self, url: str) -> _Sender:
        pid = os.getpid()
        sender = self._senders.get(pid)
        if sender is None:  # setdefault is atomic: two threads get the same sender
            sender = self._senders.setdefault(pid, _Sender(url, self._timeout, self._max_waiting))
        return sender


class _Sender:
    """The bounded queue of one process, and the thread that posts the events in it."""

    def __init__(self, url: str, timeout: float, max_waiting: int) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._netloc = parts.netloc
        self._timeout = timeout
        self._waiting: queue.Queue[tuple[str, bytes, str]] = queue.Queue(max_waiting)
        self._lock = threading.Lock()
        self._is_started = False

    def put(self, name: str, message: bytes) -> None:
        try:
            self._waiting.put_nowait((name, message, log_id()))
        except queue.Full:
            log.warning("event %s dropped: too many are waiting", name)
            return
        with self._lock:
            if not self._is_started:
                self._is_started = self._start()

    def _start(self) -> bool:
        try:
            threading.Thread(target=self._send_all, name="events", daemon=True).start()
        except RuntimeError as error:  # the limit on threads; the next event tries again
            log.warning("events wait to be sent: %s", error)
            return False
        return True

    def flush(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        with self._waiting.all_tasks_done:
            while self._waiting.unfinished_tasks:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._waiting.all_tasks_done.wait(remaining)
        return True

    def _send_all(self) -> None:
        import http.client  # loads ssl, which most predictors do not need: they send no event

        while True:
            name, message, id_ = self._waiting.get()
            try:
                self._send(message)
            except (OSError, http.client.HTTPException) as error:
                with about_request(id_):
                    log.warning("event %s not sent: %s", name, str(error) or type(error).__name__)
            finally:
                self._waiting.task_done()

    def _send(self, message: bytes) -> None:
        import http.client  # as above

        connection = http.client.HTTPConnection(self._netloc, timeout=self._timeout)
        try:
            connection.request("POST", self._path, message, {"Content-Type": "application/msgpack"})
            response = connection.getresponse()
            if response.status >= 400:
                raise OSError(f"the recorder answered {response.status} {response.reason}")
        finally:
            connection.close()


class _Holder:
    """Holds the recorder of this process, which emit_event, a plain function, has to find."""

    def __init__(self) -> None:
        self.recorder = Recorder()


_holder = _Holder()


def _current_id() -> int | None:
    text = request_id.get()
    if text is None or len(text) > len(str(LARGEST_ID)) or not re.fullmatch("[0-9]+", text):
        return None
    return int(text)


def _pack(id_: int, name: str, data: object) -> bytes:
    from obworker.predictor.encoding import to_msgpack  # the first event in production needs it

    return to_msgpack({"id": id_, "name": name, "data": _as_bytes(data)})


def _as_bytes(data: object) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if isinstance(data, str):
        return data.encode()
    if not isinstance(data, bool) and isinstance(data, Number):  # True is JSON's true
        return str(data).encode()
    from obworker.predictor.encoding import to_json  # likewise

    return to_json(data)


def _shown(data: object) -> str:
    try:
        return repr(_without_bytes(data))
    except Exception as error:  # noqa: BLE001  # a repr of the user's, or a value that holds itself
        return f"<{type(data).__name__}: {type(error).__name__}>"


def _without_bytes(data: object) -> object:
    if isinstance(data, bytes | bytearray | memoryview):
        return _Placeholder(len(data))
    if isinstance(data, dict):
        return {key: _without_bytes(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_bytes(value) for value in data]
    return data


class _Placeholder:
    def __init__(self, length: int) -> None:
        self._length = length

    def __repr__(self) -> str:
        return f"<{self._length} bytes>"
