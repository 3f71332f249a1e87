"""What a hostile or careless client, or an odd predictor, cannot do to a worker."""

from __future__ import annotations

import encodings
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from obworker.errors import BadRequest, InjectionError
from obworker.predictor import application
from obworker.predictor.payload import parse

Serve = Callable[..., Any]
Model = Callable[..., Path]


def test_keys_that_are_made_to_collide_are_refused() -> None:
    body = msgpack.packb({msgpack.Timestamp(1, 2): 1})
    with pytest.raises(BadRequest, match="not valid MessagePack: unhashable"):
        parse("application/msgpack", body)


@pytest.mark.parametrize("key", ["text", b"bytes", 1, 1.5, True, None])
def test_keys_that_are_simple_are_kept(key: object) -> None:
    assert parse("application/msgpack", msgpack.packb({key: 1}, use_bin_type=True)) == {key: 1}


@pytest.mark.parametrize(
    ("body", "outcome"),
    [('b"[" * 2_000_000', "refused"), ('b"[" + b"[1]," * 10_000 + b"2]"', "10001 items")],
)
def test_a_body_overruns_no_stack_where_the_user_has_raised_pythons_limit(
    body: str, outcome: str
) -> None:
    code = f"""if 1:
        import sys
        from obworker.errors import BadRequest
        from obworker.predictor.payload import parse
        sys.setrecursionlimit(1_000_000)
        try:
            print(len(parse("application/json", {body})), "items")
        except BadRequest:
            print("refused")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{outcome}\n"


def test_a_charset_that_nobody_knows_is_not_remembered() -> None:
    remembered = encodings._cache
    before = len(remembered)
    for number in range(100):
        with pytest.raises(BadRequest, match="unknown charset"):
            parse(f"application/json; charset=made-up-{number}", b"1")
    assert len(remembered) == before


@pytest.mark.parametrize(
    "charset", ["UTF-16", "latin-1", "ISO-8859-1", "gb18030", "big5", "cp1252"]
)
def test_a_charset_in_use_is_known(charset: str) -> None:
    body = '"é"' if charset not in {"gb18030", "big5"} else '"中"'
    value = parse(f"application/json; charset={charset}", body.encode(charset))
    assert value == body.strip('"')


def test_a_request_whose_end_fails_leaves_the_gate_open(serve: Serve) -> None:
    client = serve(
        """
        import flask

        class Predictor:
            def __init__(self, config):
                config.limit_concurrency(1)

            def predict(self, request):
                flask.current_app.app_context().push()  # and never popped
                return 1
        """
    )
    assert [client.post().status for _ in range(3)] == [200, 200, 200]


def test_a_flask_response_is_produced_in_the_context_of_its_request(serve: Serve) -> None:
    client = serve(
        """
        import flask

        class Predictor:
            def predict(self, request):
                return flask.Response(str(flask.request.path) for _ in range(3))
        """
    )
    assert client.post().body == b"///"


def test_the_body_of_a_response_given_to_abort_is_produced_in_the_context_of_its_request(
    serve: Serve,
) -> None:
    client = serve(
        """
        import flask

        class Predictor:
            def predict(self, request):
                flask.abort(flask.Response((flask.request.path for _ in range(3)), 418))
        """
    )
    answer = client.post()
    assert (answer.status, answer.body) == (418, b"///")


@pytest.mark.parametrize(
    ("at_module_level", "in_predict", "reply"),
    [
        ("from flask import jsonify", "", "jsonify({'method': 'POST'})"),
        ("from flask import request as r", "", "{'method': r.method}"),
        ("", "import json, flask.json", "flask.jsonify(method=flask.request.method)"),
        ("", "from flask import request", "{'method': request.method}"),
        ("import library", "", "library.reply()"),
    ],
)
def test_flask_has_its_context_where_predict_does_not_ask_for_the_request(
    model: Model,
    client_of: Callable[[Any], Any],
    at_module_level: str,
    in_predict: str,
    reply: str,
) -> None:
    directory = model(
        f"""
        {at_module_level}

        class Predictor:
            def predict(self, data):
                {in_predict}
                return {reply}
        """,
        library__py="""
        import flask

        def reply():
            return flask.jsonify(method=flask.request.method)
        """,
    )
    client = client_of(application.load(str(directory)).boot(1, lambda _: None))
    assert client.post().json == {"method": "POST"}


def test_a_request_id_of_thousands_of_digits_fails_no_request(serve: Serve) -> None:
    client = serve(
        """
        import obworker

        class Predictor:
            def predict(self):
                obworker.emit_event("e", "x")
                return 1
        """,
        environment="production",
    )
    assert client.post(HTTP_X_OPENBAYES_SERVING_REQUEST_ID="7" * 5000).status == 200


def test_an_event_that_holds_itself_fails_no_request(serve: Serve) -> None:
    client = serve(
        """
        import obworker

        class Predictor:
            def predict(self):
                data = []
                data.append(data)
                obworker.emit_event("e", data)
                return 1
        """
    )
    assert client.post().status == 200


@pytest.mark.parametrize("description", ["decimal.Decimal(1)", r"'\\ud800'"])
def test_an_odd_description_is_still_the_status_that_was_asked_for(
    serve: Serve, description: str
) -> None:
    client = serve(
        f"""
        import decimal
        from werkzeug.exceptions import abort

        class Predictor:
            def predict(self):
                abort(400, description={description})
        """
    )
    assert client.post().status == 400


def test_a_time_of_a_class_made_from_datetimes_is_text(serve: Serve) -> None:
    client = serve(
        """
        import datetime

        class Stamp(datetime.datetime):
            pass

        class Predictor:
            def predict(self):
                return {"at": Stamp(2026, 1, 2, 3, 4, 5), "on": datetime.date(2026, 1, 2)}
        """
    )
    expected = {"at": "2026-01-02T03:04:05", "on": "2026-01-02"}
    assert client.post().json == expected
    packed = client.post(HTTP_ACCEPT="application/msgpack")
    assert msgpack.unpackb(packed.body) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def predict(json): return json", r"predict: self is missing: def predict\(self, json"),
        ("def predict(self): pass\n    async def run(self): pass", r"run is async def"),
        ("def predict(self): pass\n    async def __init__(self): 0", r"__init__ is async def"),
        ("predict = (lambda f: lambda *args, **kw: f(*args, **kw))(id)", "its decorator hides"),
    ],
)
def test_a_signature_that_cannot_be_meant_is_refused(model: Model, body: str, message: str) -> None:
    with pytest.raises(InjectionError, match=message):
        application.load(str(model(f"class Predictor:\n    {body}\n")))


def test_a_limit_on_calls_is_known_to_the_server(model: Model) -> None:
    directory = model(
        """
        class Predictor:
            def __init__(self, config):
                config.limit_concurrency(3)

            def predict(self):
                return 1
        """
    )
    booted = application.load(str(directory)).boot(1, lambda _: None)
    assert booted.most_calls == 3


def test_a_class_may_be_of_a_module_that_is_not_there(serve: Serve) -> None:
    client = serve(
        """
        class Predictor:
            def predict(self):
                return 1

        Predictor.__module__ = "train"  # as cloudpickle makes one
        """
    )
    assert client.post().status == 200


@pytest.mark.parametrize("base", ["object", "dict", "Exception"])
def test_a_class_may_be_built_as_a_class_of_pythons_own(serve: Serve, base: str) -> None:
    client = serve(
        f"""
        class Predictor({base}):
            def predict(self):
                return 1
        """
    )
    assert client.post().json == 1
