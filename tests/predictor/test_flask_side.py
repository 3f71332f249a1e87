"""Whether a model uses Flask is found out without touching what was found before."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from obworker.predictor.flask_side import FlaskUse


class Watched:
    """Stands in for a module, and counts who looks at it."""

    looks = 0

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        self.looks += 1
        return {}


def imported(monkeypatch: pytest.MonkeyPatch, file: Path, text: str) -> None:
    """Have a module of that text be imported."""
    file.write_text(text)
    module = ModuleType(file.stem)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, file.stem, module)


def test_a_module_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    monkeypatch.setitem(sys.modules, "watched", watched)
    use = FlaskUse(tmp_path, asks_for_request=False)
    assert not use.side().is_there
    assert not use.side().is_there
    assert watched.looks == 1


def test_one_that_comes_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use = FlaskUse(tmp_path, asks_for_request=False)
    imported(monkeypatch, tmp_path / "early.py", "import json\n")
    assert not use.side().is_there
    imported(monkeypatch, tmp_path / "late.py", "def answer():\n    from flask import jsonify\n")
    assert use.side().is_there
    assert use.side() is use.side()


def test_one_that_is_elsewhere_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    imported(monkeypatch, tmp_path / "elsewhere.py", "import flask\n")
    assert not FlaskUse(model, asks_for_request=False).side().is_there
