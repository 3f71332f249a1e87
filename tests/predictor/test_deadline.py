from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextvars import copy_context
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import obworker
from obworker.predictor.deadline import extend_deadline, extension

Serve = Callable[..., Any]


@pytest.mark.parametrize("seconds", [5, 5.0, np.float32(5), np.int64(5), Fraction(5)])
def test_any_number_of_seconds_reaches_the_server(seconds: Any) -> None:
    asked: list[float] = []
    context = copy_context()
    context.run(extension.set, asked.append)
    context.run(extend_deadline, seconds)
    assert asked == [5.0]
    assert type(asked[0]) is float


@pytest.mark.parametrize(
    ("seconds", "error", "words"),
    [
        ("5", TypeError, "a number of seconds, not '5'"),
        (None, TypeError, "not None"),
        (True, TypeError, "not True"),
        (5j, TypeError, "not 5j"),
        (0, ValueError, "positive, finite number, not 0"),
        (-1.5, ValueError, "not -1.5"),
        (math.inf, ValueError, "not inf"),
        (10**400, ValueError, "not inf"),
        (math.nan, ValueError, "not nan"),
    ],
)
def test_what_is_no_time_is_refused_with_or_without_a_request(
    seconds: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        extend_deadline(seconds)


def test_outside_a_request_it_has_no_effect() -> None:
    assert extension.get() is None
    extend_deadline(5)


EXTENDING = """
    import obworker

    class Predictor:
        def predict(self, json):
            {}
"""


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ("obworker.extend_deadline(json)", [7.0]),
        ("return (obworker.extend_deadline(n) or n for n in [1, 2, json])", [1.0, 2.0, 7.0]),
    ],
)
def test_predict_and_its_stream_call_it_for_their_request(
    serve: Serve, body: str, asked: list[float]
) -> None:
    got: list[float] = []
    response = serve(EXTENDING.format(body)).post_json(
        7, **{"obworker.extend_deadline": got.append}
    )
    assert response.status == 200
    assert got == asked
    assert extension.get() is None


def test_under_another_server_it_has_no_effect(serve: Serve) -> None:
    assert (
        serve(EXTENDING.format("return obworker.extend_deadline(json)")).post_json(7).json is None
    )


def test_a_thread_in_the_requests_context_may_call_it() -> None:
    asked: list[float] = []

    def predict() -> None:
        extension.set(asked.append)
        for target in (copy_context().run, lambda function, seconds: function(seconds)):
            thread = threading.Thread(target=target, args=(obworker.extend_deadline, 5))
            thread.start()
            thread.join()

    copy_context().run(predict)
    assert asked == [5.0]  # the other thread has a context of its own
