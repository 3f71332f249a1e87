from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar
from typing import Any

import pytest
from harness import eventually

from obworker.errors import BrokenOff
from obworker.predictor.loop import PredictorLoop

Serve = Callable[..., Any]


def call(app: Any, query: str = "", **environ: object) -> Any:
    """Call the application as a server does, without the checks of the validator."""
    request = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "QUERY_STRING": query}
    return app(request | environ, lambda *_: None)


def seen() -> list[Any]:
    """Return what the predictor.py has put into its `seen`."""
    return sys.modules["predictor"].seen  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "predict",
    [
        "async def predict(self, json): return await later(json)",
        "def predict(self, json): return later(json)",
        "def predict(self, json): return Awaitable(json)",
        "predict = functools.partialmethod(lambda self, sign, json: later(json), '')",
        "@staticmethod\n    async def predict(*, json): return json",
    ],
)
def test_what_is_to_be_awaited_is(serve: Serve, predict: str) -> None:
    source = f"""
import asyncio, functools

async def later(value):
    await asyncio.sleep(0)
    return value

class Awaitable:
    def __init__(self, value):
        self.value = value
    def __await__(self):
        return later(self.value).__await__()

class Predictor:
    {predict}
"""
    assert serve(source).post_json([1]).json == [1]


@pytest.mark.parametrize(
    "predict",
    [
        "async def predict(self):\n        yield 'a'\n        yield 'b'",
        "def predict(self): return items()",
        "async def predict(self): return items()",
        "async def predict(self): return iter('ab')",
        "def predict(self): return Items()",
        "def predict(self): return Iterable()",
    ],
)
def test_items_are_streamed_wherever_they_are_from(serve: Serve, predict: str) -> None:
    source = f"""
async def items():
    yield "a"
    yield "b"

class Items:
    def __init__(self):
        self.left = ["b", "a"]
    def __aiter__(self):
        return self
    async def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop()

class Iterable:
    def __aiter__(self):
        return items()

class Predictor:
    {predict}
"""
    response = serve(source).post()
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.chunks == [b"a", b"b"]


@pytest.mark.parametrize(
    ("accept", "content_type", "chunks"),
    [
        ("*/*", "application/x-ndjson", [b'{"n":0}\n', b'{"n":1}\n']),
        ("text/event-stream", "text/event-stream", [b'data: {"n":0}\n\n', b'data: {"n":1}\n\n']),
    ],
)
def test_items_become_lines_or_events(
    serve: Serve, accept: str, content_type: str, chunks: list[bytes]
) -> None:
    source = """
        class Predictor:
            async def predict(self):
                for n in range(2):
                    yield {"n": n}
    """
    response = serve(source).post(HTTP_ACCEPT=accept)
    assert response.headers["Content-Type"] == content_type
    assert response.chunks == chunks


def test_no_items_are_an_empty_reply(serve: Serve) -> None:
    source = """
        class Predictor:
            async def predict(self):
                if False:
                    yield
    """
    assert (serve(source).post().status, serve(source).post().chunks) == (200, [])


# on one loop


def test_requests_are_awaited_at_once_on_one_loop(serve: Serve) -> None:
    source = """
        import asyncio, threading

        class Predictor:
            def __init__(self):
                self.all_here = asyncio.Event()
                self.here = 0
            async def predict(self):
                self.here += 1
                if self.here == 8:
                    self.all_here.set()
                await asyncio.wait_for(self.all_here.wait(), 10)
                return [threading.current_thread().name, id(asyncio.get_running_loop())]
    """
    client = serve(source)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: client.post(), range(8)))
    assert [reply.status for reply in replies] == [200] * 8
    assert {reply.json[0] for reply in replies} == {"predictor loop"}
    assert len({reply.json[1] for reply in replies}) == 1


def test_each_thread_gets_the_answer_to_its_own_request(serve: Serve) -> None:
    source = """
        import asyncio

        class Predictor:
            async def predict(self, json):
                await asyncio.sleep(0.05 / (json + 1))
                return json
    """
    client = serve(source)
    with ThreadPoolExecutor(8) as pool:
        assert [reply.json for reply in pool.map(client.post_json, range(8))] == [*range(8)]


def test_a_loop_for_which_there_was_no_thread_is_made_later(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # what Python says at RLIMIT_NPROC

    client = serve(
        """
        class One:
            def __await__(self):
                return 1
                yield

        class Predictor:
            def predict(self):
                return One()
        """
    )
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert client.post().status == 500
    assert client.post().json == 1


def test_the_loop_keeps_nothing_of_the_request_that_it_began_with() -> None:
    class Request:
        pass

    async def answer() -> None:
        return None

    def serve(request: Request) -> None:
        current.set(request)
        PredictorLoop().settle(answer())

    current = ContextVar[Request]("current")
    request = Request()
    seen = weakref.ref(request)
    Context().run(serve, request)
    del request
    eventually(lambda: gc.collect() >= 0 and seen() is None)


def test_without_anything_to_await_there_is_no_loop(serve: Serve) -> None:
    before = threading.active_count()
    serve("class Predictor:\n def predict(self): return 1").post()
    assert threading.active_count() == before


def test_limit_concurrency_holds(serve: Serve) -> None:
    source = """
        import asyncio

        class Predictor:
            def __init__(self, config):
                config.limit_concurrency(2)
                self.inside = 0
            async def predict(self):
                self.inside += 1
                await asyncio.sleep(0.005)
                self.inside -= 1
                return self.inside
    """
    client = serve(source)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: client.post(), range(16)))
    assert {reply.json for reply in replies} == {0, 1}


def test_a_task_that_exits_does_not_end_the_loop(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
        import asyncio, sys

        async def leave():
            sys.exit(3)

        class Predictor:
            async def predict(self):
                self.task = asyncio.create_task(leave())
                await asyncio.wait([self.task])
                return str(self.task.exception().code)
    """
    client = serve(source)
    assert [client.post().body for _ in range(2)] == [b"3", b"3"]
    eventually(lambda: caplog.text.count("called sys.exit()") == 2)


# in the request's context


def test_the_request_is_known_in_coroutines_and_generators(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
        import asyncio, flask, obworker

        class Predictor:
            async def predict(self, json):
                await asyncio.sleep(0)
                obworker.extend_deadline(json)
                return self.items()

            async def items(self):
                obworker.emit_event("seen", {})
                yield flask.request.args["q"]
                await asyncio.sleep(0)
                yield flask.request.args["q"]
    """
    caplog.set_level(logging.INFO)
    extensions: list[float] = []
    keys = {"QUERY_STRING": "q=a", "obworker.extend_deadline": extensions.append}
    assert serve(source).post_json(5, **keys).chunks == [b"a", b"a"]
    assert extensions == [5]
    assert "event seen" in caplog.text


def test_a_context_variable_lasts_from_the_coroutine_to_the_end_of_its_generator(
    serve: Serve,
) -> None:
    source = """
        import asyncio, contextvars

        variable = contextvars.ContextVar("variable", default=0)
        kept = []

        class Predictor:
            async def predict(self):
                variable.set(variable.get() + 1)
                return self.items()

            async def items(self):
                try:
                    while True:
                        token = variable.set(variable.get() + 1)
                        yield [variable.get(), len({asyncio.current_task(), *kept})]
                        variable.reset(token)
                finally:
                    kept.append(asyncio.current_task())
                    variable.reset(token)
    """
    app = serve(source).app
    for request in range(2):
        body = call(app)
        assert [next(body) for _ in range(2)] == [b"[2,%d]\n" % (request + 1)] * 2
        body.close()


# what goes wrong


def test_an_error_is_answered_as_that_of_a_plain_predict(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
        async def fail():
            raise ValueError("no")

        class Predictor:
            async def predict(self):
                await fail()
    """
    response = serve(source).post()
    assert response.status == 500
    lines = response.json["traceback"].splitlines()
    assert lines[1].endswith('predictor.py", line 7, in predict')
    assert lines[-1] == "ValueError: no"
    assert "predict raised ValueError" in caplog.text


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_http_exception_has_its_own_status(serve: Serve, is_stream: bool) -> None:
    source = f"""
        import flask

        class Predictor:
            async def predict(self):
                flask.abort(404)
                {"yield" if is_stream else ""}
    """
    assert serve(source).post().status == 404


@pytest.mark.parametrize("statement", ["raise asyncio.CancelledError('why')", "await own()"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_cancelled_predict_is_an_error_like_any(
    serve: Serve, statement: str, is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    source = f"""
        import asyncio

        async def own():
            asyncio.current_task().cancel("why")
            await asyncio.sleep(10)

        class Predictor:
            async def predict(self):
                {statement}
                {"yield" if is_stream else ""}
    """
    client = serve(source)
    for _ in range(2):
        response = client.post()
        assert response.status == 500
        assert "PredictCancelled" in response.json["traceback"]
    assert "in predict" in caplog.text


def test_sys_exit_reaches_the_server_as_from_a_plain_predict(serve: Serve) -> None:
    source = """
        import sys

        class Predictor:
            async def predict(self, params):
                if params:
                    sys.exit(3)
                return 1
    """
    client = serve(source)
    with pytest.raises(SystemExit, match="3"):
        client.post(QUERY_STRING="exit=1")
    assert client.post().json == 1


def test_an_error_after_the_first_item_is_logged_and_raised(
    serve: Serve, messages_of: Callable[[str], list[str]]
) -> None:
    source = """
        class Predictor:
            async def predict(self):
                yield "a"
                raise ValueError("late")
    """
    client = serve(source)
    with pytest.raises(BrokenOff, match="ValueError"):
        client.post(HTTP_X_REQUEST_ID="r-1")
    assert messages_of("r-1") == ["predict raised ValueError"]


# items one at a time

GENERATOR = """
import asyncio

seen = []

class Predictor:
    async def predict(self, params):
        if "turns" in params:
            for _ in range(20):
                await asyncio.sleep(0)
            return list(seen)
        return self.items()

    async def items(self):
        task = asyncio.current_task()
        try:
            for number in range(3):
                seen.append(number)
                yield str(number)
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0.01)
            seen.append(asyncio.current_task() is task)
"""


def test_an_item_is_made_when_it_is_asked_for(serve: Serve) -> None:
    app = serve(GENERATOR).app
    body = call(app)
    assert next(body) == b"0"
    assert list(call(app, "turns=1")) == [b"[0]"]  # the loop has gone on, the generator has not
    assert next(body) == b"1"
    assert list(call(app, "turns=1")) == [b"[0,1]"]
    body.close()


def test_closing_a_stream_waits_for_the_finally_of_its_generator(serve: Serve) -> None:
    body = call(serve(GENERATOR).app)
    next(body)
    body.close()
    assert seen() == [0, True]
    assert list(body) == []
    body.close()
    assert seen() == [0, True]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_generator_whose_first_item_cannot_be_sent_is_closed(serve: Serve, kind: str) -> None:
    source = f"""
        seen = []

        class Predictor:
            {kind} predict(self):
                try:
                    yield object()
                finally:
                    seen.append("closed")
    """
    assert serve(source).post().status == 500
    assert seen() == ["closed"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_generator_whose_head_cannot_be_sent_is_closed_in_its_request(
    serve: Serve, kind: str
) -> None:
    source = f"""
        import flask
        seen = []

        def fail(response):
            1 / 0

        class Predictor:
            {kind} predict(self):
                flask.after_this_request(fail)
                try:
                    yield "a"
                finally:
                    seen.append(flask.has_request_context())
    """
    assert serve(source).post().status == 500
    assert seen() == [True]


def test_a_generator_that_fails_while_it_is_closed_tells_the_server(serve: Serve) -> None:
    source = """
        class Predictor:
            async def predict(self):
                try:
                    yield "a"
                finally:
                    1 / 0
    """
    body = call(serve(source).app)
    next(body)
    with pytest.raises(ZeroDivisionError):
        body.close()
    body.close()


@pytest.mark.parametrize("has_close", [True, False])
def test_an_iterator_is_closed_if_it_can_be(serve: Serve, has_close: bool) -> None:
    source = f"""
        seen = []

        class Items:
            def __aiter__(self):
                return self
            async def __anext__(self):
                return "a"
            async def {"aclose" if has_close else "other"}(self):
                seen.append("closed")

        class Predictor:
            def predict(self):
                return Items()
    """
    body = call(serve(source).app)
    assert [next(body), next(body)] == [b"a", b"a"]
    body.close()
    assert seen() == ["closed"] * has_close


def test_a_cancellation_between_items_reaches_the_generator_where_it_stands(serve: Serve) -> None:
    source = """
        import asyncio

        seen = []

        class Predictor:
            async def predict(self, params):
                if "turns" not in params:
                    return self.items()
                for _ in range(20):
                    await asyncio.sleep(0)
                return list(seen)

            async def items(self):
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
                try:
                    yield "a"
                except asyncio.CancelledError:
                    seen.append("cancelled")
                    yield "b"
                seen.append("went on")
                yield "c"
    """
    app = serve(source).app
    body = call(app)
    assert next(body) == b"a"
    eventually(seen)  # and not only when the next item is asked for
    assert next(body) == b"b"
    assert list(call(app, "turns=1")) == [b'["cancelled"]']
    assert list(body) == [b"c"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is newer")
def test_a_timeout_may_span_items(serve: Serve) -> None:
    source = """
        import asyncio

        class Predictor:
            async def predict(self):
                try:
                    async with asyncio.timeout(0.05):
                        yield "a"
                        yield "b"
                        await asyncio.sleep(10)
                except TimeoutError:
                    yield "late"
    """
    assert serve(source).post().chunks == [b"a", b"b", b"late"]


@pytest.mark.parametrize("reads_slowly", [True, False])
def test_a_scope_of_anyio_may_span_items(serve: Serve, reads_slowly: bool) -> None:
    source = """
        import anyio

        seen = []

        class Predictor:
            async def predict(self):
                with anyio.move_on_after(0.05) as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(anyio.sleep, 10)
                        yield "a"
                        yield "b"
                seen.append(scope.cancelled_caught)
                yield "late"
    """
    body = call(serve(source).app)
    assert next(body) == b"a"
    if reads_slowly:
        eventually(seen)
    assert list(body) == ([b"late"] if reads_slowly else [b"b", b"late"])
    assert seen() == [True]


# nobody waits any more

PATIENT = """
import asyncio

seen = []

class Predictor:
    def __init__(self, config):
        config.limit_concurrency(1)

    async def predict(self, params):
        if "items" in params:
            return self.items(params["items"])
        if "wait" in params:
            await self.wait()
        return 1

    async def items(self, how):
        yield "a"
        if how == "wait":
            await self.wait()
        try:
            yield "b"
        finally:
            seen.append("closed")

    async def wait(self):
        seen.append("waits")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            seen.append("cancelled")
"""


class Lost:
    """A server's side of obworker.on_lost, for one request."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.environ: dict[str, Any] = {"obworker.on_lost": self.callbacks.append}

    def lose(self) -> None:
        """Tell that nobody waits for the response any more."""
        for callback in self.callbacks:
            callback()


def test_a_predict_that_nobody_waits_for_is_cancelled(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client, lost = serve(PATIENT), Lost()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.post, QUERY_STRING="wait=1", **lost.environ)
        eventually(seen)
        lost.lose()
        assert waiting.result(10).status == 499
    assert seen() == ["waits", "cancelled"]
    assert client.post().json == 1  # its place is free
    assert not caplog.records


def test_a_generator_that_nobody_waits_for_is_cancelled(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client, lost = serve(PATIENT), Lost()
    body = call(client.app, "items=wait", **lost.environ)
    assert next(body) == b"a"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(list, body)
        eventually(seen)
        lost.lose()
        assert waiting.result(10) == []
    body.close()
    assert seen() == ["waits", "cancelled"]
    assert client.post().json == 1
    assert not caplog.records


@pytest.mark.parametrize("is_closed_first", [True, False])
def test_a_generator_that_nobody_waits_for_is_closed_where_it_stands(
    serve: Serve, is_closed_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    client, lost = serve(PATIENT), Lost()
    body = call(client.app, "items=2", **lost.environ)
    assert [next(body), next(body)] == [b"a", b"b"]
    ends = [body.close, lost.lose] if is_closed_first else [lost.lose, body.close]
    for end in ends:
        end()
    assert seen() == ["closed"]
    assert client.post().json == 1
    assert not caplog.records


def test_the_finally_of_a_generator_that_is_closed_is_not_cancelled(serve: Serve) -> None:
    source = """
        import asyncio

        seen = []

        class Predictor:
            async def predict(self):
                try:
                    yield "a"
                finally:
                    seen.append("closing")
                    await asyncio.sleep(0.1)
                    seen.append("closed")
    """
    lost = Lost()
    body = call(serve(source).app, **lost.environ)
    next(body)
    with ThreadPoolExecutor() as pool:
        closing = pool.submit(body.close)
        eventually(seen)
        lost.lose()
        closing.result(10)
    assert seen() == ["closing", "closed"]


def test_one_that_was_lost_before_it_began_is_cancelled_at_its_first_await(serve: Serve) -> None:
    client = serve(PATIENT)
    reply = client.post(QUERY_STRING="wait=1", **{"obworker.on_lost": lambda lose: lose()})
    assert reply.status == 499
    assert seen() == ["waits", "cancelled"]


def test_who_is_lost_after_the_answer_is_of_no_interest(serve: Serve) -> None:
    client, lost = serve(PATIENT), Lost()
    assert client.post(**lost.environ).json == 1
    lost.lose()
    assert client.post().json == 1
