from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from obworker.errors import InjectionError
from obworker.predictor.injection import (
    INIT_NAMES,
    PREDICT_NAMES,
    has_background_run,
    has_preload,
    health_method,
    is_async,
    plan_init,
    plan_predict,
)

PRELOAD = "@classmethod\n def preload(cls): 0"
RESOLVERS = {name: name.upper().__add__ for name in (*INIT_NAMES, *PREDICT_NAMES)}


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Callable_:
    def __call__(self, data: object) -> object:
        return data


def returning(*, default: object = None) -> Any:
    return lambda self: default


class Shapes:
    """One predict for each way of asking."""

    def nothing(self) -> Any:
        return ()

    def any_order(self, params: Any, json: Any) -> Any:
        return params, json

    def unknown_default(self, json: Any, threshold: float = 0.5) -> Any:
        return json, threshold

    def known_default(self, json: Any = None) -> Any:
        return json

    def variadic(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return data, args, kwargs

    def positional_only(self, json: Any, /, data: Any) -> Any:
        return json, data

    def positional_gap(self, x: int = 1, json: Any = None, y: int = 2, /) -> Any:
        return x, json, y

    def keyword_only(self, *, headers: Any) -> Any:
        return headers

    def misleading_annotation(self, json: bytes, data: str) -> Any:
        return json, data

    @traced
    def decorated(self, json: Any) -> Any:
        return json

    @staticmethod
    def static(json: Any) -> Any:
        return json

    @classmethod
    def klass(cls, json: Any) -> Any:
        return cls.__name__, json

    def several(self, first: int, json: Any) -> Any:
        return first, json

    partial = functools.partialmethod(several, 7)
    instance = Callable_()
    all_names = functools.partialmethod(
        lambda self, json, payload, data, params, args, headers, request: (json, request)
    )


@pytest.mark.parametrize(
    ("method", "names", "result"),
    [
        ("nothing", "", ()),
        ("any_order", "params json", ("PARAMS!", "JSON!")),
        ("unknown_default", "json", ("JSON!", 0.5)),
        ("known_default", "json", "JSON!"),
        ("variadic", "data", ("DATA!", (), {})),
        ("positional_only", "json data", ("JSON!", "DATA!")),
        ("positional_gap", "json", (1, "JSON!", 2)),
        ("keyword_only", "headers", "HEADERS!"),
        ("misleading_annotation", "json data", ("JSON!", "DATA!")),
        ("decorated", "json", "JSON!"),
        ("static", "json", "JSON!"),
        ("klass", "json", ("P", "JSON!")),
        ("partial", "json", (7, "JSON!")),
        ("instance", "data", "DATA!"),
        ("all_names", " ".join(PREDICT_NAMES), ("JSON!", "REQUEST!")),
    ],
)
def test_predict_is_called_with_what_it_names(method: str, names: str, result: object) -> None:
    predictor = type("P", (), {"predict": vars(Shapes)[method]})
    plan = plan_predict(predictor)
    assert plan.names == tuple(names.split())
    instance: Any = predictor()
    assert plan.bind(instance.predict, RESOLVERS)("!") == result


def predictor_of(source: str) -> type:
    namespace: dict[str, Any] = {}
    exec(f"class Predictor:\n {source}", namespace)
    return namespace["Predictor"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def predict(self, jsn): 0", ["Predictor.predict", "'jsn'", "mean 'json'", "payload"]),
        ("def predict(self, x): 0", ["unknown parameter 'x'", "known are json"]),
        ("def predict(self, x, /): 0", ["unknown parameter 'x'"]),
        ("def predict(self, *, x): 0", ["unknown parameter 'x'"]),
        ("def predict(self, onnx): 0", ["'onnx'; onnx is for __init__"]),
        ("predict = 5", ["Predictor.predict is a int; it must be a method"]),
        ("@property\n def predict(self): 0", ["is a property"]),
        (
            "class Lazy:\n  def __get__(self, *_): raise KeyError('weights')\n predict = Lazy()",
            ["Predictor.predict cannot be looked at without an instance: 'weights'"],
        ),
        ("def predict(): 0", ["its parameters cannot be read"]),
        ("pass", ["Predictor has no predict method"]),
    ],
)
def test_a_predict_that_cannot_be_filled_is_explained(source: str, words: list[str]) -> None:
    with pytest.raises(InjectionError) as got:
        plan_predict(predictor_of(source))
    assert all(word in str(got.value) for word in words), str(got.value)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("pass", ()),
        ("def __init__(self): 0", ()),
        ("def __init__(self, config, onnx): 0", ("config", "onnx")),
        ("def __init__(self, onnx=None, device='cpu'): 0", ("onnx",)),
        ("def __init__(self, *args, **kwargs): 0", ()),
        (f"{PRELOAD}\n def __init__(self, preloaded, onnx): 0", ("preloaded", "onnx")),
        (f"{PRELOAD}\n def __init__(self, preloaded=None): 0", ("preloaded",)),
        (f"{PRELOAD}\n def __init__(self): 0", ()),
        ("def __init__(self, preloaded=None): 0", ()),
    ],
)
def test_init_names(source: str, names: tuple[str, ...]) -> None:
    assert plan_init(predictor_of(source)).names == names


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def __init__(self, onxx): 0", ["Predictor.__init__", "'onxx'", "mean 'onnx'"]),
        ("def __init__(self, json): 0", ["json is for predict", "known are onnx, config"]),
        (
            "def __init__(self, preloaded): 0",
            ["preloaded is what preload() returns, and there is none", "@classmethod"],
        ),
        (
            "def preload(self): 0\n def __init__(self, preloaded): 0",
            ["preloaded is what preload() returns, and there is none", "@classmethod"],
        ),
    ],
)
def test_an_init_that_cannot_be_filled_is_explained(source: str, words: list[str]) -> None:
    with pytest.raises(InjectionError) as got:
        plan_init(predictor_of(source))
    assert all(word in str(got.value) for word in words), str(got.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("pass", False),
        ("def run(self): 0", True),
        ("def run(self, interval=1): 0", True),
        ("def run(self, image): 0", False),
        ("run = 5", False),
    ],
)
def test_run_is_a_background_task_only_without_parameters(source: str, expected: bool) -> None:
    assert has_background_run(predictor_of(source)) is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("pass", None),
        ("def health(self): 0", "health"),
        ("def is_ready(self, *, deep=False): 0", "is_ready"),
        ("def is_ready(self): 0\n def health(self): 0", "health"),
        ("def is_ready(self): 0\n def health(self, request): 0", "is_ready"),
        ("async def health(self): 0", "health"),
        ("async def health(self, request): 0", None),
        ("@staticmethod\n def health(): 0", "health"),
        ("is_ready = True", None),
    ],
)
def test_health_is_told_by_a_method_without_parameters(source: str, expected: str | None) -> None:
    assert health_method(predictor_of(source)) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("pass", False),
        (PRELOAD, True),
        ("@staticmethod\n def preload(): 0", True),
        ("@classmethod\n def preload(cls, device='cpu'): 0", True),
        ("@classmethod\n def preload(cls, path): 0", False),
        ("def preload(self): 0", False),
        ("preload = True", False),
    ],
)
def test_preload_is_a_function_of_the_class_without_parameters(source: str, expected: bool) -> None:
    assert has_preload(predictor_of(source)) is expected


def test_a_base_class_may_have_the_preload() -> None:
    assert has_preload(type("Derived", (predictor_of(PRELOAD),), {}))


def test_preload_must_be_a_plain_function() -> None:
    predictor = predictor_of("@classmethod\n async def preload(cls): 0")
    with pytest.raises(InjectionError, match=r"must be a plain function: @classmethod def preload"):
        has_preload(predictor)


def test_run_must_be_a_plain_function() -> None:
    predictor = predictor_of("async def run(self): 0")
    with pytest.raises(InjectionError, match=r"must be a plain function: def run\(self\)"):
        has_background_run(predictor)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def predict(self): 0", False),
        ("def predict(self): yield", False),
        ("async def predict(self): 0", True),
        ("async def predict(self): yield", True),
        ("@staticmethod\n async def predict(): 0", True),
        ("@classmethod\n async def predict(cls): 0", True),
    ],
)
def test_predict_may_be_async(source: str, expected: bool) -> None:
    assert is_async(predictor_of(source), "predict") is expected
