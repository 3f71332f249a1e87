"""The WSGI application: the way of a request from the environ through predict to the reply."""

from __future__ import annotations

import threading
import uuid
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING

from obworker.predictor import reply
from obworker.predictor.arguments import Call
from obworker.predictor.deadline import extension
from obworker.predictor.events import request_id
from obworker.predictor.failures import Failures, answer_json
from obworker.predictor.loop import PredictorLoop
from obworker.predictor.streaming import Body, Stream
from obworker.request_context import ID_FIELD, PLATFORM_ID_FIELD, given_id, set_request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from obworker.predictor.batching import Batcher, BatchLimits, Item

# A client that appends / to a base URL that ends with / asks for //.
ROOT = frozenset({"", "/", "//"})
MESSAGE = "The predictor is up; POST to / for a prediction"
ALLOW = ("Allow", "GET, HEAD, POST")


def reaches_predict(method: str, path: str) -> bool:
    """Whether a request calls predict; others are answered at once, however busy predict is."""
    return method == "POST" and path in ROOT


class Application:
    """Serves one predictor; a plain WSGI application (PEP 3333) for any server.

    At most `most_calls` are in predict at once: a server with no more threads than that never waits
    in here. `prepare` is called before predict. `check_health`, if the predictor has such a method,
    raises Unhealthy; it must be called from one of the threads that call predict. If predict
    `is_async`, a thread that calls it mostly waits for `loop`.

    With a `batcher` it can answer many requests at once, within `batch_limits`. Without `predict`,
    each request is a batch of its own.
    """

    def __init__(
        self,
        predict: Callable[[Call], object] | None,
        failures: Failures,
        *,
        batcher: Batcher | None = None,
        batch_limits: BatchLimits | None = None,
        most_calls: int | None = None,
        prepare: Callable[[Call], object] | None = None,
        check_health: Callable[[], None] | None = None,
        loop: PredictorLoop,
        is_async: bool = False,
    ) -> None:
        self.most_calls = most_calls
        self.is_async = is_async
        self.check_health = check_health
        self.batch_limits = batch_limits
        self._batcher = batcher
        self._predict = predict
        self._prepare = prepare
        self._gate = threading.Semaphore(most_calls) if most_calls else None
        self._failures = failures
        self._loop = loop

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "")
        if not reaches_predict(environ["REQUEST_METHOD"], path):
            return _describe(path, environ, start_response)
        if self._predict is None:
            return self._answer_alone(environ, start_response)
        # What is set for a request (its id, Flask's request) is in a context of its own: a stream
        # is produced in it after this call has returned, and the server's thread keeps nothing.
        context = copy_context()
        call = Call(environ)
        return context.run(self._answer, context, call, self._call_predict, start_response)

    def answer_all(
        self, environs: Sequence[WSGIEnvironment]
    ) -> Iterator[list[tuple[int, WSGIApplication]]]:
        """Answer requests by predict_batch, in one call or more.

        After each call yield the applications that answer its requests, with their places in
        `environs`; the sequence may be empty.
        """
        assert self._batcher is not None
        items = self._batcher.items(environs)
        places = {item: place for place, item in enumerate(items)}
        for settled in self._batcher.settle(items):
            yield [(places[item], partial(self._answer_item, item)) for item in settled]

    def _answer_alone(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        ((_, answer),) = next(self.answer_all([environ]))
        return answer(environ, start_response)

    def _answer_item(
        self, item: Item, _environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        context = item.context
        return context.run(self._answer, context, item.call, item.outcome, start_response)

    def _answer(
        self,
        context: Context,
        call: Call,
        predict: Callable[[Call], object],
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        body: Iterable[bytes] = ()
        try:
            value = predict(call)
            body = self._reply(value, context, call, call.starting(start_response))
        except Exception as error:  # noqa: BLE001  # the seam: whatever predict raises is answered
            answer = self._failures.answer(error, call.environ, call.starting(start_response))
            body = self._pass_on(answer, context, call)
        finally:
            if call.releases and not isinstance(body, Body):  # it releases when it is closed
                call.release()
        return body

    def _call_predict(self, call: Call) -> object:
        introduce(call.environ)
        if self._gate is not None:
            self._gate.acquire()
            call.on_release(self._gate.release)
        if self._prepare is not None:
            self._prepare(call)
        assert self._predict is not None
        return self._predict(call)

    def _reply(
        self, value: object, context: Context, call: Call, start_response: StartResponse
    ) -> Iterable[bytes]:
        if type(value) in reply.PLAIN:
            return _send(value, call, start_response)
        environ = call.environ
        value = self._loop.settle(value, environ.get("obworker.on_lost"))
        if reply.is_stream(value):
            stream = Stream(
                value,
                environ.get("HTTP_ACCEPT", ""),
                context,
                on_error=self._failures.report,
                on_close=call.release,
            )
            stream.start(start_response)
            return stream
        if reply.is_wsgi(value):
            body = reply.call_wsgi(value, environ, start_response)
            return self._pass_on(body, context, call)
        return _send(value, call, start_response)

    def _pass_on(self, body: Iterable[bytes], context: Context, call: Call) -> Iterable[bytes]:
        """Return a body that will be produced in the request's context."""
        if isinstance(body, list):
            return body
        return Body(body, body, context, self._failures.report, call.release)


def introduce(environ: WSGIEnvironment) -> None:
    """Set the id and the deadline in the request's context, for functions that predict may call."""
    extend = environ.get("obworker.extend_deadline")
    if extend is None:
        set_request_id(given_id(environ) or uuid.uuid4().hex)
    else:  # our own server, which has named the request
        set_request_id(environ.get(ID_FIELD, ""))
        extension.set(extend)
    if id_ := environ.get(PLATFORM_ID_FIELD):
        request_id.set(id_)


def _send(value: object, call: Call, start_response: StartResponse) -> list[bytes]:
    content_type, body = reply.render(value, call.environ.get("HTTP_ACCEPT", ""))
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def _describe(
    path: str, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Answer a request that does not reach predict."""
    if path not in ROOT:
        return _refuse(environ, start_response, 404, "Not Found: POST to / for a prediction")
    method = environ["REQUEST_METHOD"]
    if method not in {"GET", "HEAD"}:
        return _refuse(environ, start_response, 405, f"Method Not Allowed: {method[:20]}", ALLOW)
    body = answer_json(start_response, 200, {"message": MESSAGE})
    return [] if method == "HEAD" else body


def _refuse(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: int,
    message: str,
    *headers: tuple[str, str],
) -> Iterable[bytes]:
    body = answer_json(start_response, status, {"error": message}, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else body
