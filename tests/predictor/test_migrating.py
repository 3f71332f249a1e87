"""What docs/migrating.md says becomes of other servers' code works."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT

from obworker.settings import OPTIONS

Model = Callable[..., Path]
Serve = Callable[..., Any]

PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
PREDICTORS = re.findall(r"```python\n(from model .*?)```", PAGE, re.DOTALL)
MODEL = """
    def load(weights):
        return lambda inputs: [sum(x) for x in inputs]
"""


@pytest.mark.parametrize("predictor", PREDICTORS, ids=("flask", "litserve", "bentoml"))
def test_a_predictor_of_the_page_answers(model: Model, serve: Serve, predictor: str) -> None:
    model(model__py=MODEL)
    assert serve(predictor).post_json({"x": [1, 2]}).json == {"scores": 3}


def test_flask_answers_as_in_its_own_views(serve: Serve) -> None:
    client = serve("""
        from flask import abort, jsonify, make_response

        class Predictor:
            def predict(self, request):
                kind = request.get_json()["kind"]
                if kind == "abort":
                    abort(404)
                return jsonify(kind=kind) if kind == "jsonify" else make_response("gone", 410)
    """)
    assert client.post_json({"kind": "jsonify"}).json == {"kind": "jsonify"}
    assert client.post_json({"kind": "abort"}).status == 404
    assert client.post_json({"kind": "made"}).status == 410


def test_the_page_names_options_that_there_are() -> None:
    ours = {flag for option in OPTIONS for flag in option.flags} | {"--no-access-log", "--wait"}
    rows = re.findall(r"^\|.*\| (.*?) \|$", PAGE, re.MULTILINE)
    named = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row)}
    same = re.findall(r"^\| (`-.*?) \| the same", PAGE, re.MULTILINE)
    named |= {flag for row in same for flag in re.findall(r"(?<!-)--?[a-z-]+", row)}
    assert len(named) > 20
    assert named <= ours
