from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from obworker.errors import Unhealthy
from obworker.predictor import application
from obworker.predictor.dispatch import Application

Model = Callable[..., Path]

SOURCE = """
    import numpy as np

    class Predictor:
        def {method}(self{more}):
            {body}
        def predict(self): pass

    class Tensor:  # torch's, of no dimension, on a GPU
        def __init__(self, value, dtype="torch.bool"):
            self.value, self.dtype, self.ndim = value, dtype, 0

        def __bool__(self):
            if isinstance(self.value, Exception):
                raise self.value
            return bool(self.value)
"""


def load(model: Model, body: str, method: str = "health", more: str = "") -> Application:
    source = SOURCE.format(method=method, more=more, body=body)
    return application.load(str(model(source))).boot(1, lambda _: None)


@pytest.mark.parametrize("method", ["health", "is_ready"])
@pytest.mark.parametrize(
    "answer",
    [
        *("True", "None", "0", "''", "'False'", "[]", "np.True_", "np.zeros(2)", "np.float32(0)"),
        *("Tensor(True)", "Tensor(0, 'torch.int64')", "np.zeros(2, bool)"),
    ],
)
def test_whatever_is_not_false_is_healthy(model: Model, method: str, answer: str) -> None:
    check = load(model, f"return {answer}", method).check_health
    assert check
    check()


@pytest.mark.parametrize("method", ["health", "is_ready"])
@pytest.mark.parametrize(
    "answer", ["False", "np.isfinite(np.array([1, np.inf])).all()", "Tensor(False)"]
)
def test_false_is_not(model: Model, method: str, answer: str) -> None:
    check = load(model, f"return {answer}", method).check_health
    assert check
    with pytest.raises(Unhealthy, match=rf"^Predictor\.{method}\(\) returned False$"):
        check()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "raise ValueError('no memory left')",
            "predictor.py:6: Predictor.health() raised ValueError: no memory left",
        ),
        (
            "return Tensor(RuntimeError('CUDA error: unknown error'))",
            "predictor.py:15: Predictor.health() raised RuntimeError: CUDA error: unknown error",
        ),
        ("raise SystemExit(1)", "predictor.py:6: Predictor.health() raised SystemExit: 1"),
    ],
)
def test_what_it_raises_is_told_with_its_place(model: Model, statement: str, message: str) -> None:
    check = load(model, statement).check_health
    assert check
    with pytest.raises(Unhealthy) as got:
        check()
    assert str(got.value) == message
    assert got.value.__cause__ is not None


@pytest.mark.parametrize(("method", "more"), [("other", ""), ("health", ", device")])
def test_without_such_a_method_there_is_no_check(model: Model, method: str, more: str) -> None:
    assert load(model, "return False", method, more).check_health is None


def test_it_is_described(model: Model) -> None:
    source = SOURCE.format(method="is_ready", more="", body="return True")
    blueprint = application.load(str(model(source)))
    assert ("health", "Predictor.is_ready()") in blueprint.description


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return False", r"Predictor\.health\(\) returned False"),
        ("raise ValueError", r"predictor.py:6: Predictor\.health\(\) raised ValueError"),
    ],
)
def test_a_coroutine_is_awaited(model: Model, body: str, message: str) -> None:
    source = SOURCE.format(method="health", more="", body=body)
    directory = model(source.replace("def health", "async def health"))
    check = application.load(str(directory)).boot(1, lambda _: None).check_health
    assert check
    with pytest.raises(Unhealthy, match=message):
        check()
