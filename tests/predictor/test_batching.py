"""predict_batch: what it gets, what becomes of its list, and whose an error is."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults

import pytest
from harness import eventually

from obworker.errors import BootError, DeviceError, InjectionError
from obworker.predictor import application
from obworker.predictor.batching import BatchLimits, Item, align, parted
from obworker.predictor.dispatch import Application
from obworker.predictor.encoding import ReplyError

Model = Callable[..., Path]
MessagesOf = Callable[[str], list[str]]

DOUBLE = """
    class Predictor:
        def predict_batch(self, json):
            return [2 * x for x in json]
"""
# Says with each answer how many were in the call, and fails for them all where one is "bad".
FRAGILE = """
    class Predictor:
        def predict_batch(self, json):
            if "bad" in json:
                raise ValueError("a bad one")
            return [len(json)] * len(json)
"""


class Answered(NamedTuple):
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def environ(body: object = None, **more: Any) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(raw)),
        "wsgi.input": io.BytesIO(raw),
        **more,
    }
    setup_testing_defaults(made)
    return made


class Batches:
    """Answers requests by one predictor, several at once; `steps` has the places as they came."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.steps: list[list[int]] = []

    def answer(self, *bodies: object) -> list[Answered]:
        return self.answer_all([environ(body) for body in bodies])

    def answer_all(self, environs: list[dict[str, Any]]) -> list[Answered]:
        answered: dict[int, Answered] = {}
        for step in self.app.answer_all(environs):
            self.steps.append([place for place, _ in step])
            answered |= {place: call(answer, environs[place]) for place, answer in step}
        return [answered[place] for place in range(len(environs))]


def call(answer: Any, with_environ: dict[str, Any]) -> Answered:
    statuses: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> object:
        statuses.append(status)
        return lambda data: None

    body: Iterable[bytes] = answer(with_environ, start_response)
    try:
        return Answered(int(statuses[-1][:3]), b"".join(body))
    finally:
        getattr(body, "close", lambda: None)()


@pytest.fixture
def batches(model: Model) -> Callable[..., Batches]:
    """Boot a predictor.py whose predict_batch answers."""

    def boot(source: str, environment: str = "local") -> Batches:
        blueprint = application.load(str(model(source)), environment=environment)
        return Batches(blueprint.boot(1, lambda _: None))

    return boot


class TestWhatPredictBatchGets:
    def test_a_list_for_each_name_in_the_order_of_the_requests(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                def predict_batch(self, params, json, *, data, headers, unknown=7):
                    assert unknown == 7
                    assert len({len(x) for x in (params, json, data, headers)}) == 1
                    return [
                        [p.get("n"), j, d.decode(), h["x-a"]]
                        for p, j, d, h in zip(params, json, data, headers)
                    ]
        """)
        environs = [environ(n, QUERY_STRING=f"n={n}", HTTP_X_A=f"h{n}") for n in range(3)]
        expected = [[str(n), n, str(n), f"h{n}"] for n in range(3)]
        assert [reply.json for reply in made.answer_all(environs)] == expected
        assert made.steps == [[0, 1, 2]]

    def test_positional_only_defaults_stay_what_they_are(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                def predict_batch(self, scale=3, json=None, /):
                    return [scale * x for x in json]
        """)
        assert [reply.json for reply in made.answer(1, 2)] == [3, 6]

    def test_who_has_left_before_the_call_is_not_in_it(self, batches: Any) -> None:
        made = batches(DOUBLE)
        environs = [environ(n) for n in range(3)]
        for n, made_environ in enumerate(environs):
            made_environ["obworker.is_lost"] = partial(bool, n % 2)
        assert [r.status for r in made.answer_all(environs)] == [200, 499, 200]
        assert made.steps == [[1], [0, 2]]

    def test_where_all_have_left_there_is_no_call(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                def predict_batch(self, json):
                    raise AssertionError
        """)
        environs = [environ(n, **{"obworker.is_lost": lambda: True}) for n in range(2)]
        assert [r.status for r in made.answer_all(environs)] == [499, 499]

    def test_a_body_that_cannot_be_read_is_not_in_the_call(self, batches: Any) -> None:
        made = batches(DOUBLE)
        good, bad, other = made.answer(1, b"{", 3)
        assert (good.json, bad.status, other.json) == (2, 400, 6)
        assert made.steps == [[1], [0, 2]]

    def test_requests_of_flask_and_what_needs_its_context(self, batches: Any) -> None:
        pytest.importorskip("flask")
        made = batches("""
            from flask import has_request_context, jsonify

            class Predictor:
                def predict_batch(self, request):
                    assert not has_request_context()
                    return [jsonify(r.get_json()) for r in request]
        """)
        assert [reply.json for reply in made.answer(1, {"a": 2})] == [1, {"a": 2}]

    def test_its_log_lines_name_the_first_request_and_how_many_follow(
        self, batches: Any, messages_of: MessagesOf
    ) -> None:
        made = batches("""
            import logging

            class Predictor:
                def predict_batch(self, json):
                    logging.getLogger("model").warning("%d here", len(json))
                    return json
        """)
        made.answer_all([environ(n, HTTP_X_REQUEST_ID=f"id-{n}") for n in range(3)])
        made.answer_all([environ(1, HTTP_X_REQUEST_ID="alone")])
        assert messages_of("id-0+2") == ["3 here"]
        assert messages_of("alone") == ["1 here"]

    def test_coroutines_are_awaited(self, batches: Any) -> None:
        made = batches("""
            import asyncio

            class Predictor:
                async def predict_batch(self, json):
                    return await asyncio.gather(*[self.one(x) for x in json])

                async def one(self, x):
                    await asyncio.sleep(0)
                    return 2 * x
        """)
        assert [reply.json for reply in made.answer(1, 2)] == [2, 4]

    def test_a_coroutine_is_cancelled_when_nobody_waits_for_any_of_them(
        self, batches: Any, messages_of: MessagesOf
    ) -> None:
        made = batches("""
            import asyncio

            class Predictor:
                calls = []

                async def predict_batch(self, json):
                    self.calls.append(json)
                    if "wait" in json:
                        await asyncio.sleep(60)
                    return [self.calls] * len(json)
        """)
        lose: list[Callable[[], object]] = []
        environs = [
            environ("wait", HTTP_X_REQUEST_ID=f"id-{n}", **{"obworker.on_lost": lose.append})
            for n in range(2)
        ]
        replies: list[Answered] = []
        answering = threading.Thread(target=lambda: replies.extend(made.answer_all(environs)))
        answering.start()
        eventually(lambda: len(lose) == 2)
        lose[0]()
        answering.join(0.2)
        assert answering.is_alive()
        lose[1]()
        answering.join(10)
        assert [reply.status for reply in replies] == [499, 499]
        assert made.answer("again")[0].json == [["wait", "wait"], ["again"]]
        assert not messages_of("id-0+1")

    def test_it_can_ask_for_more_time(self, batches: Any) -> None:
        made = batches("""
            import obworker

            class Predictor:
                def predict_batch(self, json):
                    obworker.extend_deadline(7)
                    return json
        """)
        asked: list[float] = []
        environs = [environ(n, **{"obworker.extend_deadline": asked.append}) for n in range(2)]
        assert [reply.status for reply in made.answer_all(environs)] == [200, 200]
        assert asked == [7]

    def test_what_limits_concurrency_counts_calls(self, batches: Any) -> None:
        made = batches("""
            import time

            class Predictor:
                def __init__(self, config):
                    config.limit_concurrency(1)
                    self.inside = 0

                def predict_batch(self, json):
                    self.inside += 1
                    time.sleep(0.01)
                    assert self.inside == 1
                    self.inside -= 1
                    return json
        """)
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.extend(r.status for r in made.answer(1, 2)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 8


class TestWhatBecomesOfItsList:
    def test_an_exception_in_it_is_that_requests_error(
        self, batches: Any, messages_of: MessagesOf
    ) -> None:
        made = batches(
            """
            from werkzeug.exceptions import NotFound

            class Predictor:
                def predict_batch(self, json):
                    return [1, ValueError("secret"), NotFound("no such label"), SystemExit(3)]
            """,
            "production",
        )
        environs = [environ(n, HTTP_X_REQUEST_ID=f"id-{n}") for n in range(4)]
        (step,) = made.app.answer_all(environs)
        first, second, third = (call(answer, environs[n]) for n, answer in step[:3])
        assert (first.status, second.status, third.status) == (200, 500, 404)
        assert b"secret" not in second.body
        assert third.json == {"error": "no such label"}
        assert messages_of("id-1") == ["predict raised ValueError"]
        with pytest.raises(SystemExit):  # as from predict: it is the server's to answer
            call(step[3][1], environs[3])

    @pytest.mark.parametrize(
        ("returned", "problem"),
        [
            ("json[1:]", "a list of 2 from predict_batch for 3 requests"),
            ("[*json, 1]", "a list of 4 from predict_batch for 3 requests"),
            ("{'a': 1}", "a dict from predict_batch; it must be a list of 3"),
            ("None", "a NoneType from predict_batch; it must be a list of 3"),
            ("(x for x in json)", "a generator from predict_batch; it must be a list of 3"),
        ],
    )
    def test_no_list_of_that_length_is_an_error_of_all_and_not_tried_again(
        self, batches: Any, messages_of: MessagesOf, returned: str, problem: str
    ) -> None:
        made = batches(f"""
            class Predictor:
                def predict_batch(self, json):
                    return {returned}
        """)
        environs = [environ(n, HTTP_X_REQUEST_ID=f"id-{n}") for n in range(3)]
        assert [reply.status for reply in made.answer_all(environs)] == [500] * 3
        assert made.steps == [[0, 1, 2]]
        assert all(problem in messages_of(f"id-{n}")[0] for n in range(3))

    @pytest.mark.parametrize("method", ["async def predict_batch", "def items"])
    def test_a_stream_is_none_and_is_closed(
        self, batches: Any, messages_of: MessagesOf, method: str
    ) -> None:
        made = batches(f"""
            import asyncio

            class Predictor:
                async def predict_batch(self, json):
                    return self.items(json)

                async {method.removeprefix("async ")}(self, json):
                    for x in json:
                        yield x

                async def health(self):
                    assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()
        """)
        environs = [environ(n, HTTP_X_REQUEST_ID=f"id-{n}") for n in range(2)]
        assert [reply.status for reply in made.answer_all(environs)] == [500] * 2
        assert "a stream from predict_batch; it must be a list of 2" in messages_of("id-0")[0]
        made.app.check_health()

    def test_one_that_cannot_be_sent_is_one_requests_error(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                def predict_batch(self, json):
                    return [object(), (x for x in "abc"), 3]
        """)
        assert [reply.status for reply in made.answer(1, 2, 3)] == [500, 500, 200]


class TestACallThatFails:
    def test_each_is_tried_alone_once(self, batches: Any) -> None:
        made = batches(FRAGILE)
        replies = made.answer("good", "bad", "good")
        assert [reply.status for reply in replies] == [200, 500, 200]
        assert replies[0].json == replies[2].json == 1
        assert made.steps == [[], [0], [1], [2]]

    def test_it_is_said_for_all_and_for_the_one_that_was_bad(
        self, batches: Any, messages_of: MessagesOf
    ) -> None:
        bodies = ["good", "bad", "good"]
        environs = [environ(b, HTTP_X_REQUEST_ID=f"id-{n}") for n, b in enumerate(bodies)]
        batches(FRAGILE).answer_all(environs)
        assert messages_of("id-0+2") == [
            "predict_batch for 3 requests raised ValueError: a bad one; each is tried alone"
        ]
        assert messages_of("id-1") == ["predict raised ValueError"]

    def test_who_has_left_meanwhile_is_not_tried(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                calls = []

                def predict_batch(self, json):
                    self.calls.append(json)
                    if len(json) > 1:
                        raise ValueError("too many")
                    return [self.calls]
        """)
        answers = iter([False, True])  # one is there for the first call, and not for the second
        environs = [environ(n) for n in range(3)]
        environs[1]["obworker.is_lost"] = lambda: next(answers)
        assert [r.status for r in made.answer_all(environs)] == [200, 499, 200]
        assert made.steps == [[], [0], [1], [2]]
        assert made.answer(3)[0].json == [[0, 1, 2], [0], [2], [3]]

    @pytest.mark.parametrize("error", ["SyntaxError", "Wordless"])
    def test_one_that_says_nothing_is_no_worse(self, batches: Any, error: str) -> None:
        made = batches(f"""
            class Wordless(Exception):
                def __str__(self):
                    return self.args[0]

            class Predictor:
                def predict_batch(self, json):
                    if len(json) > 1:
                        raise {error}
                    return json
        """)
        assert [reply.json for reply in made.answer(1, 2)] == [1, 2]

    def test_one_alone_is_not_tried_again(self, batches: Any) -> None:
        made = batches(FRAGILE)
        assert [reply.status for reply in made.answer("bad")] == [500]
        assert made.steps == [[0]]

    def test_so_does_what_is_no_exception(self, batches: Any) -> None:
        """pyo3's panics are not: tokenizers raises them."""
        made = batches("""
            class Panic(BaseException):
                pass

            class Predictor:
                def predict_batch(self, json):
                    if len(json) > 1:
                        raise Panic("too many")
                    return json
        """)
        assert [reply.json for reply in made.answer(1, 2)] == [1, 2]

    def test_what_has_no_memory_together_may_have_it_alone(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                def predict_batch(self, json):
                    if len(json) > 1:
                        raise RuntimeError("CUDA error: out of memory")
                    return json
        """)
        assert [reply.json for reply in made.answer(1, 2)] == [1, 2]

    def test_nothing_is_tried_again_on_a_gpu_that_is_lost(
        self, model: Model, messages_of: MessagesOf
    ) -> None:
        source = """
            class Predictor:
                def predict_batch(self, json):
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")
        """
        told: list[Exception] = []
        made = Batches(application.load(str(model(source))).boot(1, told.append))
        environs = [environ(n, HTTP_X_REQUEST_ID=f"id-{n}") for n in range(2)]
        assert [reply.status for reply in made.answer_all(environs)] == [503, 503]
        assert made.steps == [[0, 1]]
        assert {type(error) for error in told} == {DeviceError}
        assert not messages_of("id-0+1")

    def test_ctrl_c_is_for_the_process(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                def predict_batch(self, json):
                    raise KeyboardInterrupt
        """)
        with pytest.raises(KeyboardInterrupt):
            made.answer(1, 2)


class TestKeys:
    def test_what_has_another_key_is_in_another_call(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                def batch_key(self, json, params):
                    return len(json)

                def predict_batch(self, json):
                    return [json] * len(json)
        """)
        replies = made.answer("a", "bb", "c", "dd", "e")
        assert [reply.json for reply in replies] == [
            ["a", "c", "e"],
            ["bb", "dd"],
            ["a", "c", "e"],
            ["bb", "dd"],
            ["a", "c", "e"],
        ]
        assert made.steps == [[0, 2, 4], [1, 3]]

    def test_what_it_raises_is_that_requests_error(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                def batch_key(self, json):
                    return {"list": [], "raise": 1 // (json != "raise")}.get(json, 0)

                def predict_batch(self, json):
                    return json
        """)
        replies = made.answer("fine", "list", "raise", "good")
        assert [reply.status for reply in replies] == [200, 500, 500, 200]
        assert made.steps == [[1, 2], [0, 3]]

    def test_so_is_what_it_raises_that_is_no_exception(self, batches: Any) -> None:
        made = batches("""
            import sys

            class Predictor:
                def batch_key(self, json):
                    if json == "bad":
                        sys.exit("a bad one")

                def predict_batch(self, json):
                    return json
        """)
        environs = [environ(body) for body in ("fine", "bad", "good")]
        (_, bad), (_, fine), (_, good) = chain(*made.app.answer_all(environs))
        assert (call(fine, environs[0]).body, call(good, environs[2]).body) == (b"fine", b"good")
        with pytest.raises(SystemExit):
            call(bad, environs[1])


class TestAlone:
    def test_without_predict_each_request_is_a_batch_of_its_own(self, serve: Any) -> None:
        client = serve(DOUBLE)
        assert client.post_json(4).json == 8
        assert client.post(b"{", "application/json").status == 400
        assert client.request("GET", "/").status == 200

    def test_what_it_logs_has_the_id_of_the_answer(
        self, serve: Any, messages_of: MessagesOf
    ) -> None:
        client = serve("""
            import logging

            class Predictor:
                def predict_batch(self, json):
                    logging.getLogger("model").warning("here")
                    raise ValueError
        """)
        response = client.post_json(4)
        assert messages_of(response.headers["X-Request-ID"]) == [
            "here",
            "predict raised ValueError",
        ]

    def test_with_both_predict_answers_what_comes_alone(self, batches: Any) -> None:
        made = batches("""
            class Predictor:
                def predict(self, json):
                    return "alone"

                def predict_batch(self, json):
                    return ["together"] * len(json)
        """)
        assert call(made.app, environ(1)).body == b"alone"
        assert made.answer(1)[0].body == b"together"

    @pytest.mark.parametrize(
        ("methods", "called", "limits"),
        [
            ("def predict_batch(self, json): ...", "", BatchLimits(8, 0.0)),
            ("def predict_batch(self, json): ...", "config.batch(max_size=3)", BatchLimits(3, 0.0)),
            (
                "def predict_batch(self, json): ...",
                "config.batch(max_wait_ms=5)",
                BatchLimits(8, 0.005),
            ),
            ("def predict(self): ...", "", None),
            ("predict = predict_batch = lambda self, json: 1", "", BatchLimits(1, 0.0)),
            ("predict = predict_batch = lambda self, json: 1", "config.batch()", BatchLimits(8)),
        ],
    )
    def test_how_many_go_together_unless_somebody_says_otherwise(
        self, batches: Any, methods: str, called: str, limits: BatchLimits | None
    ) -> None:
        made = batches(f"""
            class Predictor:
                def __init__(self, config):
                    {called or "pass"}
                {methods}
        """)
        assert made.app.batch_limits == limits


class TestMistakes:
    @pytest.mark.parametrize(
        ("methods", "message"),
        [
            ("def predict_batch(self, jsn): ...", "unknown parameter 'jsn' (did you mean 'json'?)"),
            (
                "def predict_batch(self, json_=0): ...",
                "predict_batch asks for none of json, payload,",
            ),
            ("def predict_batch(json): ...", "self is missing: def predict_batch(self, json, …)"),
            (
                "def predict_batch(self, json): ...\n    async def batch_key(self): ...",
                "Predictor.batch_key is async def; it must be a plain function",
            ),
        ],
    )
    def test_of_a_signature_stop_the_start(self, model: Model, methods: str, message: str) -> None:
        with pytest.raises(InjectionError) as raised:
            application.load(str(model(f"class Predictor:\n    {methods}\n")))
        assert message in str(raised.value)

    def test_a_predict_batch_that_is_the_predictors_own_is_left_alone(self, model: Model) -> None:
        source = "class Predictor:\n    predict = lambda s, json: 1\n    def predict_batch(s, x): 1"
        blueprint = application.load(str(model(source)))
        assert blueprint.boot(1, lambda _: None).batch_limits is None
        assert ("batches", "none: Predictor.predict_batch: unknown parameter 'x'") in [
            (label, text.partition(";")[0]) for label, text in blueprint.description
        ]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("max_size=0", "config.batch takes as max_size 1 or more, not 0"),
            ("max_size=1.5", "config.batch takes as max_size a whole number, not 1.5"),
            ("max_wait_ms=-1", "config.batch takes as max_wait_ms 0 or more, not -1"),
            ("max_wait_ms=float('inf')", "config.batch takes as max_wait_ms 0 or more, not inf"),
            ("max_wait_ms='5'", "config.batch takes as max_wait_ms a number, not '5'"),
        ],
    )
    def test_of_config_batch_are_told(self, batches: Any, arguments: str, message: str) -> None:
        with pytest.raises(BootError) as raised:
            batches(f"""
                class Predictor:
                    def __init__(self, config):
                        config.batch({arguments})

                    def predict_batch(self, json): ...
            """)
        assert message in str(raised.value)

    def test_config_batch_without_predict_batch_is_told(self, batches: Any) -> None:
        with pytest.raises(BootError, match="is for predict_batch, and Predictor has none"):
            batches("""
                class Predictor:
                    def __init__(self, config):
                        config.batch(max_size=4)

                    def predict(self): ...
            """)

    def test_what_is_served_is_described(self, model: Model) -> None:
        source = """
            class Predictor:
                def batch_key(self, params): ...
                def predict_batch(self, json): ...
        """
        blueprint = application.load(str(model(source)))
        assert blueprint.description == [
            ("predictor", "predictor.py: Predictor().predict_batch(json)"),
            ("batches", "Predictor.predict_batch(json), by batch_key(params)"),
        ]
        assert blueprint.body_kind == "json"


def items_with(keys: str) -> Iterator[Item]:
    for key in keys:
        item = Item({}, {})
        item.key = key
        yield item


@pytest.mark.parametrize(
    ("keys", "parts"),
    [("", []), ("aaa", ["aaa"]), ("abab", ["aa", "bb"]), ("cba", ["c", "b", "a"])],
)
def test_parts_come_in_the_order_of_their_first_items(keys: str, parts: list[str]) -> None:
    found = ["".join(str(item.key) for item in part) for part in parted(items_with(keys))]
    assert found == parts


def test_a_tuple_is_as_good_as_a_list() -> None:
    assert align((1, 2), 2) == (1, 2)
    assert all(isinstance(result, ReplyError) for result in align((1,), 2))
