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


AFTER = """
    from flask import Response, abort, after_this_request, jsonify, request

    class Predictor:
        called = []

        def predict(self, params):
            if params["kind"] == "called":
                return self.called

            @after_this_request
            def first(response):
                self.called.append(request.args["kind"])
                response.headers["X-First"] = "1"
                response.set_data("longer than it was")
                if params["kind"] == "fail":
                    raise ValueError
                return response

            @after_this_request
            def second(response):
                response.status_code += 1
                response.set_cookie("a", "b")
                return response

            if params["kind"] == "abort":
                abort(409)
            return {"dict": {"a": 1}, "response": Response("r"), "stream": iter("s"), "fail": 1}[
                params["kind"]
            ]
"""


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("dict", 201, b'{"a":1}'),
        ("response", 201, b"r"),
        ("stream", 201, b"s"),
        ("abort", 410, None),
        ("fail", 501, None),
    ],
)
def test_flask_is_told_after_a_request_of_its_head(
    serve: Serve, kind: str, status: int, body: bytes | None
) -> None:
    client = serve(AFTER)
    response = client.post(QUERY_STRING=f"kind={kind}")
    assert (response.status, response.headers["Set-Cookie"]) == (status, "a=b; Path=/")
    assert ("X-First" in response.headers) == (kind != "fail")
    assert body is None or response.body == body
    assert response.headers.get("Content-Length", "1") == str(len(response.body))
    assert client.post(QUERY_STRING="kind=called").json == [kind]


def test_the_page_names_options_that_there_are() -> None:
    ours = {flag for option in OPTIONS for flag in option.flags} | {"--no-access-log", "--wait"}
    rows = re.findall(r"^\|.*\| (.*?) \|$", PAGE, re.MULTILINE)
    named = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row)}
    same = re.findall(r"^\| (`-.*?) \| the same", PAGE, re.MULTILINE)
    named |= {flag for row in same for flag in re.findall(r"(?<!-)--?[a-z-]+", row)}
    assert len(named) > 20
    assert named <= ours
