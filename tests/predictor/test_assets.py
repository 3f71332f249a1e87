"""What is made before the fork, what after it, and what of that is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from obworker.errors import BootError
from obworker.predictor import assets
from obworker.predictor.assets import Assets
from obworker.predictor.onnx import CPU, SessionPlan

SHARED, OWN = ", shared by all workers", ", one for each worker"


class Predictor:
    made = 0

    @classmethod
    def preload(cls) -> int:
        cls.made += 1
        return cls.made

    def predict(self) -> None: ...


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[SessionPlan]:
    """Return the plans of which a session was made."""
    plans: list[SessionPlan] = []

    def open_session(plan: SessionPlan) -> Any:
        plans.append(plan)
        return SimpleNamespace(number=len(plans))

    monkeypatch.setattr(assets, "open_session", open_session)
    monkeypatch.setattr(Predictor, "made", 0)
    return plans


def of(threads: int | None, *, has_preload: bool) -> Assets:
    plan = None if threads is None else SessionPlan(Path("/m/net.onnx"), (CPU,), threads)
    return Assets(Path("/m/predictor.py"), Predictor, plan, has_preload)


def test_what_was_made_before_the_fork_is_made_once(opened: list[SessionPlan]) -> None:
    shared = of(1, has_preload=True).preload()
    first, second = shared.complete(), shared.complete()
    assert len(opened) == Predictor.made == 1
    assert first["onnx"] is second["onnx"]
    assert first["preloaded"] == second["preloaded"] == 1


def test_a_session_with_threads_is_made_after_the_fork(opened: list[SessionPlan]) -> None:
    shared = of(2, has_preload=True).preload()
    assert opened == []
    assert shared.complete()["onnx"] is not shared.complete()["onnx"]
    assert Predictor.made == 1


def test_without_a_fork_everything_is_made_where_it_is_used(opened: list[SessionPlan]) -> None:
    alone = of(1, has_preload=True)
    assert set(alone.complete()) == {"onnx", "preloaded"}
    assert len(opened) == Predictor.made == 1
    assert of(None, has_preload=False).complete() == {}


@pytest.mark.parametrize(
    ("threads", "of_session"), [(1, f"1 thread{SHARED}"), (2, f"2 threads{OWN}")]
)
def test_the_report_says_what_is_shared(
    threads: int, of_session: str, opened: list[SessionPlan]
) -> None:
    made = of(threads, has_preload=True)
    assert ("preload", "Predictor.preload()") in made.description
    assert made.preload().description == [
        ("onnx", f"net.onnx: cpu, {of_session}"),
        ("preload", f"Predictor.preload(){SHARED}"),
    ]


def test_what_preload_raises_is_an_error_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    def preload() -> None:
        raise RuntimeError("no weights")

    monkeypatch.setattr(Predictor, "preload", preload)
    with pytest.raises(BootError, match=r"Predictor\.preload raised RuntimeError: no weights"):
        of(None, has_preload=True).preload()
