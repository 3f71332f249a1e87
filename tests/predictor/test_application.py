from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from benchmarks import onnx_models

import obworker
from obworker.errors import BootError, BrokenOff, InjectionError, LoadError, ObworkerError
from obworker.predictor import application

Model = Callable[..., Path]
ClientOf = Callable[[Any], Any]
MessagesOf = Callable[[str], list[str]]
Serve = Callable[..., Any]

ECHO = """
    class Predictor:
        def predict(self, json):
            return json
"""


def returning(expression: str, parameters: str = "") -> str:
    return f"""
class Predictor:
    def predict(self, {parameters}):
        return {expression}
"""


def test_json_in_and_json_out(serve: Serve) -> None:
    response = serve(ECHO).post_json({"图": [1, None]})
    assert response.status == 200
    assert response.headers == {"Content-Type": "application/json", "Content-Length": "16"}
    assert response.json == {"图": [1, None]}


def test_messagepack_in_and_out(serve: Serve) -> None:
    body = msgpack.packb({"a": b"\xff"})
    response = serve(ECHO).post(body, "application/x-msgpack", HTTP_ACCEPT="application/msgpack")
    assert response.headers["Content-Type"] == "application/msgpack"
    assert response.body == body


@pytest.mark.parametrize(
    ("method", "path", "status", "content", "allow"),
    [
        ("GET", "/", 200, {"message": "The predictor is up; POST to / for a prediction"}, None),
        ("PUT", "/", 405, {"error": "Method Not Allowed: PUT"}, "GET, HEAD, POST"),
        ("OPTIONS", "/", 405, {"error": "Method Not Allowed: OPTIONS"}, "GET, HEAD, POST"),
        ("POST", "/x", 404, {"error": "Not Found: POST to / for a prediction"}, None),
        ("GET", "/x", 404, {"error": "Not Found: POST to / for a prediction"}, None),
        ("POST", "", 200, 1, None),
        ("POST", "//", 200, 1, None),
    ],
)
def test_routes(
    serve: Serve, method: str, path: str, status: int, content: object, allow: str | None
) -> None:
    response = serve(returning("1")).request(method, path, SCRIPT_NAME="" if path else "/mounted")
    assert (response.status, response.json) == (status, content)
    assert response.headers.get("Allow") == allow


@pytest.mark.parametrize("path", ["/", "/x"])
def test_head_has_the_headers_of_get_and_no_body(serve: Serve, path: str) -> None:
    client = serve(returning("1"))
    head = client.request("HEAD", path)
    assert head.headers == client.request("GET", path).headers
    assert head.body == b""


@pytest.mark.parametrize(
    ("parameters", "expression", "result"),
    [
        ("data", "[type(data).__name__, data.decode()]", ["bytes", "a=1&b=图"]),
        ("payload", "payload.decode()", "a=1&b=图"),
        ("params", "[params.get('q'), params.getlist('q'), params['e']]", ["1", ["1", "2 é"], ""]),
        ("params", "isinstance(params, dict)", True),
        ("args", "args['q']", "1"),
        ("params", "params.get('raw')", "图"),
        ("headers", "[isinstance(headers, dict), headers['x-model-ID']]", [True, "m"]),
        ("headers", "sorted(k for k in headers if k != 'Host')", None),
        ("request", "[request.method, request.form['a'], request.args['q']]", ["POST", "1", "1"]),
        ("request, data", "[request.form['b'], len(data)]", ["图", 9]),
        ("data, request", "[len(data), request.get_data(as_text=True)]", [9, "a=1&b=图"]),
        ("json=None, *, data", "0", None),
    ],
)
def test_arguments(serve: Serve, parameters: str, expression: str, result: object) -> None:
    response = serve(returning(expression, parameters)).post(
        "a=1&b=图".encode(),
        "application/x-www-form-urlencoded",
        QUERY_STRING="q=1&q=2+%C3%A9&e=&raw=" + "图".encode().decode("latin-1"),
        HTTP_X_MODEL_ID="m",
    )
    if "json" in parameters:  # a known name is filled, default or not
        assert response.status == 400
        assert "is neither application/json" in response.json["error"]
    elif "sorted" in expression:
        assert response.json == ["Content-Length", "Content-Type", "X-Model-Id"]
    else:
        content = response.body.decode()
        assert (content if isinstance(result, str) else response.json) == result


@pytest.mark.parametrize(
    ("statement", "result"),
    [
        ("h['CONTENT-type']", "text/x"),
        ("h.get('content-type')", "text/x"),
        ("h.get('absent')", None),
        ("h.get('absent', 1)", 1),
        ("h.get('absent', default=1)", 1),
        ("h.get('content-length', type=int)", 1),
        ("h.get('absent', 2, type=int)", 2),
        ("h.get('content-type', 2, type=int)", 2),
        ("h.getlist('content-type') + h.getlist('absent')", ["text/x"]),
        ("'content-TYPE' in h", True),
        ("'absent' in h or 5 in h", False),
        ("h.pop('content-type')", "text/x"),
        ("h.pop('absent', 1)", 1),
        ("h.setdefault('content-type', 'y')", "text/x"),
        ("[h.__setitem__('a-b', 'c'), h['A-B']][1]", "c"),
        ("[h.__delitem__('content-type'), 'Content-Type' in h][1]", False),
        ("[h.update({'a-b': 'c'}, d='e'), h['A-B'] + h['d']][1]", "ce"),
        ("[h.update([('content-type', 'c')]), h['Content-Type']][1]", "c"),
        ("h.__ior__({'a-b': 'c'})['a-b']", "c"),
        ("h.copy()['content-type']", "text/x"),
        ("dict(h)['Content-Type']", "text/x"),
    ],
)
def test_headers_are_looked_up_without_regard_to_case(
    serve: Serve, statement: str, result: object
) -> None:
    response = serve(
        returning(f"[{statement}]", "headers: 'dict', h=None").replace(
            "return", "h = headers; return"
        )
    ).post(b"x", "text/x")
    assert response.json == [result]


def test_a_body_of_unknown_length_is_read_to_its_end(serve: Serve) -> None:
    response = serve(returning("data", "data")).post(
        b"chunked", CONTENT_LENGTH="", **{"wsgi.input_terminated": True}
    )
    assert response.body == b"chunked"


def test_no_length_is_no_body(serve: Serve) -> None:
    assert serve(returning("data", "data")).post(b"left alone", CONTENT_LENGTH="").body == b""


def test_a_body_cut_short_is_a_bad_request(serve: Serve) -> None:
    response = serve(returning("data", "data")).post(b"abc", CONTENT_LENGTH="5")
    assert (response.status, response.json) == (
        400,
        {"error": "the body ended after 3 of 5 bytes"},
    )


@pytest.mark.parametrize("length", ["²", "-1", "+1", "1x", "1,1"])
def test_a_length_that_is_no_number_is_a_bad_request(serve: Serve, length: str) -> None:
    app = serve(returning("data", "data")).app
    statuses: list[str] = []
    environ = {"REQUEST_METHOD": "POST", "wsgi.input": None, "CONTENT_LENGTH": length}
    app(environ, lambda status, headers, exc_info=None: statuses.append(status))
    assert statuses == ["400 Bad Request"]


def test_only_what_is_asked_for_is_computed(serve: Serve) -> None:
    app = serve(returning("1")).app
    environ = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "1"}  # with no input to read
    assert app(environ, lambda status, headers: None) == [b"1"]


@pytest.mark.parametrize(
    ("expression", "status", "headers", "body"),
    [
        ("'x'", 200, {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "1"}, b"x"),
        ("b'x'", 200, {"Content-Type": "application/octet-stream", "Content-Length": "1"}, b"x"),
        ("flask.Response('x', 201)", 201, {"Content-Length": "1"}, b"x"),
        ("werkzeug.Response('x', 202, {'A': 'b'})", 202, {"A": "b"}, b"x"),
        ("flask.jsonify(a=1)", 200, {"Content-Type": "application/json"}, b'{"a":1}\n'),
        ("flask.redirect('/y')", 302, {"Location": "/y"}, None),
        ("wsgi", 299, {"X": "y"}, b"own"),
        ("iter([1, 2])", 200, {"Content-Type": "application/x-ndjson"}, b"1\n2\n"),
        ("werkzeug.exceptions.NotFound()", 404, {}, None),
    ],
)
def test_replies(
    serve: Serve, expression: str, status: int, headers: dict[str, str], body: bytes | None
) -> None:
    source = """
import flask, werkzeug, werkzeug.exceptions

def wsgi(environ, start_response):
    start_response("299 Own", [("X", "y"), ("Content-Type", "a/b")])
    return [b"own"]
"""
    response = serve(source + returning(expression, "request")).post(HTTP_ACCEPT="image/png")
    assert response.status == status
    assert headers.items() <= response.headers.items()
    assert body is None or response.body == body


def test_nothing_acceptable_is_406(serve: Serve) -> None:
    response = serve(returning("{}")).post(HTTP_ACCEPT="text/html")
    assert response.status == 406
    assert response.headers["Content-Type"] == "application/json"


def test_flask_works_as_in_a_view_even_while_streaming(serve: Serve) -> None:
    source = """
        import flask

        class Predictor:
            def predict(self, request):
                assert type(request) is flask.Request
                def items():
                    for _ in range(2):
                        yield flask.request.args["q"]
                return items()
    """
    client = serve(source)
    assert client.post(QUERY_STRING="q=a").chunks == [b"a", b"a"]
    assert client.post(QUERY_STRING="q=b").body == b"bb"


def test_flask_has_no_request_after_the_reply(serve: Serve) -> None:
    import flask

    serve(
        returning("flask.request.method", "request").replace("class", "import flask\nclass", 1)
    ).post()
    assert not flask.has_request_context()


def test_without_flask_the_request_is_werkzeugs(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flask", None)
    source = returning("type(request).__module__ + request.form['a']", "request")
    response = serve(source).post(b"a=1", "application/x-www-form-urlencoded")
    assert response.body == b"werkzeug.wrappers.request1"


@pytest.mark.parametrize(
    ("statement", "status", "content", "headers"),
    [
        ("flask.abort(404)", 404, None, {}),
        ("flask.abort(403, 'no entry')", 403, {"error": "no entry"}, {}),
        (
            "raise w.MethodNotAllowed(valid_methods=['PUT'])",
            405,
            {"error": "The method is not allowed for the requested URL."},
            {"Allow": "PUT"},
        ),
        ("raise w.ServiceUnavailable('busy', retry_after=3)", 503, None, {"Retry-After": "3"}),
        ("raise w.HTTPException()", 500, {"error": "Unknown Error"}, {}),
        ("raise type('T', (w.HTTPException,), {'code': 299})('own')", 299, {"error": "own"}, {}),
        ("flask.abort(flask.Response('mine', 418))", 418, b"mine", {}),
        ("flask.request.get_json()", 415, None, {}),
        ("request.form['absent']", 400, None, {}),
    ],
)
def test_an_http_exception_has_its_own_status(
    serve: Serve, statement: str, status: int, content: object, headers: dict[str, str]
) -> None:
    source = f"""
import flask
import werkzeug.exceptions as w
class Predictor:
    def predict(self, request):
        {statement}
"""
    response = serve(source, "production").post()
    assert response.status == status
    assert headers.items() <= response.headers.items()
    if isinstance(content, bytes):
        assert response.body == content
    else:
        assert list(response.json) == ["error"]
        assert content is None or response.json == content


FAILING = """
class Predictor:
    def predict(self):
        raise ValueError("secret")
"""


def test_in_production_an_error_says_nothing_but_the_log_does(
    serve: Serve, caplog: pytest.LogCaptureFixture, messages_of: MessagesOf
) -> None:
    response = serve(FAILING, "production").post(HTTP_X_REQUEST_ID="r-1")
    assert (response.status, response.json) == (500, {"error": "Internal Server Error"})
    assert response.headers["X-Request-ID"] == "r-1"
    assert messages_of("r-1") == ["predict raised ValueError"]
    assert "ValueError: secret" in caplog.text
    assert "dispatch.py" not in caplog.text.split("Traceback")[1]


@pytest.mark.parametrize("environment", ["local", "gear"])
def test_outside_production_an_error_carries_the_traceback(serve: Serve, environment: str) -> None:
    content = serve(FAILING, environment).post().json
    assert content["error"] == "Internal Server Error"
    lines = content["traceback"].splitlines()
    assert lines[1].endswith('predictor.py", line 4, in predict')
    assert lines[-1] == "ValueError: secret"


@pytest.mark.parametrize(
    ("environment", "tracebacks", "is_shown"),
    [("local", "off", False), ("production", "on", True), ("production", "auto", False)],
)
def test_who_asks_for_tracebacks_or_for_none_is_heard(
    model: Model, client_of: ClientOf, environment: str, tracebacks: str, *, is_shown: bool
) -> None:
    path = str(model(FAILING))
    blueprint = application.load(path, environment=environment, tracebacks=tracebacks)
    response = client_of(blueprint.boot(1, lambda _: None)).post()
    assert response.status == 500
    assert ("traceback" in response.json) is is_shown


def test_another_server_can_be_told_to_send_no_traceback(model: Model, client_of: ClientOf) -> None:
    path = str(model(FAILING))
    assert "traceback" in client_of(application.create(path)).post().json
    response = client_of(application.create(path, tracebacks="off")).post()
    assert response.json == {"error": "Internal Server Error"}
    with pytest.raises(KeyError, match="of"):
        application.create(path, tracebacks="of")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HTTP_X_REQUEST_ID": "a", "HTTP_X_OPENBAYES_SERVING_REQUEST_ID": "7"}, "a"),
        ({"HTTP_X_OPENBAYES_SERVING_REQUEST_ID": "7"}, "7"),
        ({"HTTP_X_REQUEST_ID": "a b"}, None),
        ({"HTTP_X_REQUEST_ID": "x" * 129}, None),
        ({}, None),
    ],
)
def test_an_error_has_a_request_id(
    serve: Serve, environ: dict[str, str], expected: str | None
) -> None:
    id_ = serve(FAILING).post(**environ).headers["X-Request-ID"]
    assert id_ == expected if expected else len(id_) == 32


def test_a_reply_that_cannot_be_sent_is_named_in_the_log(
    serve: Serve, messages_of: MessagesOf
) -> None:
    response = serve(returning("{1, 2}"), "production").post(HTTP_X_REQUEST_ID="r-1")
    assert (response.status, response.json) == (500, {"error": "Internal Server Error"})
    (message,) = messages_of("r-1")
    assert message.startswith("predict returned what cannot be sent: a set")
    assert "allowed are dict, list" in message


@pytest.mark.parametrize(("value", "kind"), [("self.predict", "method"), ("len", "builtin")])
def test_a_function_that_was_to_be_called_is_not_taken_for_a_response(
    serve: Serve, messages_of: MessagesOf, value: str, kind: str
) -> None:
    response = serve(returning(value), "production").post(HTTP_X_REQUEST_ID="r-1")
    assert (response.status, response.json) == (500, {"error": "Internal Server Error"})
    (message,) = messages_of("r-1")
    assert message.startswith(f"predict returned what cannot be sent: a {kind}")
    assert "no WSGI application" in message


def test_a_type_error_inside_a_wsgi_callable_keeps_its_traceback(serve: Serve) -> None:
    response = serve(returning("lambda environ, start_response: None + 1")).post()
    assert response.status == 500
    assert "unsupported operand" in response.json["traceback"]


def test_a_value_from_a_function_that_streams_is_an_error(serve: Serve) -> None:
    """It would be lost, and the answer empty."""
    source = """
        class Predictor:
            def predict(self, json):
                if json:
                    yield from json
                else:
                    return {"empty": True}
    """
    client = serve(source)
    assert client.post_json(["a", "b"]).body == b"ab"
    response = client.post_json([])
    assert response.status == 500
    assert "a dict from a function with a yield" in response.json["traceback"]


def test_an_error_before_the_first_item_is_500(serve: Serve) -> None:
    source = """
        class Predictor:
            def predict(self):
                raise ValueError
                yield
    """
    assert serve(source).post().status == 500


def test_an_error_of_a_wsgi_callable_replaces_what_it_started(serve: Serve) -> None:
    source = """
        def wsgi(environ, start_response):
            start_response("200 OK", [("Content-Type", "a/b")])
            raise ValueError

        class Predictor:
            def predict(self):
                return wsgi
    """
    response = serve(source).post()
    assert response.status == 500
    assert response.headers["Content-Type"] == "application/json"


def test_what_predict_and_its_stream_log_belongs_to_the_request(
    serve: Serve, messages_of: MessagesOf
) -> None:
    source = """
        import logging, obworker
        log = logging.getLogger("users.own")

        class Predictor:
            def predict(self):
                log.info("predict")
                obworker.emit_event("seen", obworker.request_id())
                return self.stream()

            def stream(self):
                try:
                    log.info("first")
                    yield "a"
                    log.info("second")
                    yield "b"
                finally:
                    log.info("end")
    """
    serve(source).post(HTTP_X_REQUEST_ID="r-1")
    assert messages_of("r-1") == ["predict", "event seen: 'r-1'", "first", "second", "end"]
    assert obworker.request_id() == ""


def test_an_error_after_the_first_item_is_logged_and_raised(
    serve: Serve, messages_of: MessagesOf
) -> None:
    source = """
        class Predictor:
            def predict(self):
                yield "a"
                raise ValueError("late")
    """
    client = serve(source)
    with pytest.raises(BrokenOff, match="ValueError"):
        client.post(HTTP_X_REQUEST_ID="r-1")
    assert messages_of("r-1") == ["predict raised ValueError"]


def test_under_our_own_server_the_log_has_the_id_that_the_server_gave(
    serve: Serve, messages_of: MessagesOf
) -> None:
    of_ours = {"obworker.extend_deadline": lambda _seconds: None}
    assert serve(FAILING).post(HTTP_X_REQUEST_ID="ours-1", **of_ours).status == 500
    assert messages_of("ours-1") == ["predict raised ValueError"]


def test_an_error_is_logged_although_predict_has_set_up_logging_of_its_own(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """What dictConfig does not name it disables."""
    client = serve("""
        import logging

        class Predictor:
            def predict(self):
                logging.getLogger("obworker.predictor").disabled = True
                raise ValueError("secret")
    """)
    assert client.post().status == 500
    assert "ValueError: secret" in caplog.text


def test_events_know_the_request(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    source = """
        import openbayes_serving as serv
        from obworker.predictor.events import request_id

        class Predictor:
            def predict(self):
                serv.emit_event("seen", request_id.get())
    """
    caplog.set_level(logging.INFO)
    client = serve(source)
    client.post(HTTP_X_OPENBAYES_SERVING_REQUEST_ID="42")
    client.post()
    assert [record.getMessage() for record in caplog.records] == [
        "event seen: '42'",
        "event seen: None",
    ]


def test_limit_concurrency_holds_while_streaming_too(serve: Serve) -> None:
    source = """
        class Predictor:
            def __init__(self, config):
                config.limit_concurrency(1)
                self.inside = 0
            def predict(self):
                self.inside += 1
                yield str(self.inside)
                self.inside -= 1
    """
    app = serve(source).app
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/"}
    first = app(environ, lambda *_: None)
    assert next(first) == b"1"
    waiting = threading.Event()
    seen: list[bytes] = []

    def second() -> None:
        waiting.set()
        body = app(environ, lambda *_: None)
        seen.extend(body)
        body.close()

    thread = threading.Thread(target=second)
    thread.start()
    assert waiting.wait(10)
    thread.join(0.05)  # it would be through long before
    assert seen == []
    assert list(first) == []
    first.close()
    thread.join(10)
    assert seen == [b"1"]


def test_the_limit_is_let_go_after_an_error(serve: Serve) -> None:
    source = """
        class Predictor:
            def __init__(self, config):
                config.limit_concurrency(1)
            def predict(self):
                raise ValueError
    """
    client = serve(source)
    assert [client.post().status for _ in range(3)] == [500, 500, 500]


@pytest.mark.parametrize("limit", ["0", "-1", "True", "1.5", "'2'"])
def test_a_limit_must_be_a_whole_number(serve: Serve, limit: str) -> None:
    source = f"""
class Predictor:
    def __init__(self, config):
        config.limit_concurrency({limit})
    def predict(self): pass
"""
    with pytest.raises(BootError, match=r"predictor\.py:4: .* limit_concurrency takes"):
        serve(source)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("raise ValueError('no weights')", "raised ValueError: no weights"),
        ("open('absent.txt')", "raised FileNotFoundError"),
        ("raise SystemExit(2)", "called sys.exit(2)"),
        ("raise SyntaxError", "raised SyntaxError"),
        ("raise type('Own', (Exception,), {'__str__': lambda _: 1 / 0})", "raised Own: <"),
    ],
)
def test_a_failing_init_is_one_line(serve: Serve, statement: str, message: str) -> None:
    source = f"class Predictor:\n def __init__(self):\n  {statement}\n def predict(self): pass"
    with pytest.raises(BootError) as got:
        serve(source)
    assert str(got.value).startswith(f"predictor.py:3: Predictor.__init__ {message}")
    assert got.value.__cause__ is not None


RUNNING = """
    import asyncio

    class Predictor:
        def run(self):
            {}
        def predict(self): pass
"""


def booted_run(
    model: Model, statement: str, environment: str, caplog: pytest.LogCaptureFixture
) -> list[ObworkerError]:
    fatal: list[ObworkerError] = []
    directory = model(RUNNING.format(statement))
    blueprint = application.load(str(directory), environment=environment)
    assert ("background", "Predictor.run()") in blueprint.description
    blueprint.boot(1, fatal.append)
    return fatal


@pytest.mark.parametrize(
    ("statement", "environment", "is_fatal"),
    [
        ("raise ValueError('gone')", "production", True),
        ("raise SystemExit(1)", "production", True),
        ("raise asyncio.CancelledError", "production", True),
        ("raise ValueError('gone')", "local", False),
        ("pass", "production", False),
    ],
)
def test_a_run_that_fails_is_fatal_only_in_production(
    model: Model,
    caplog: pytest.LogCaptureFixture,
    statement: str,
    environment: str,
    is_fatal: bool,
) -> None:
    fatal = booted_run(model, statement, environment, caplog)
    assert all("predictor.py:" in str(error) and "Predictor.run " in str(error) for error in fatal)
    assert len(fatal) == is_fatal
    assert ("Predictor.run failed" in caplog.text) is ("raise" in statement)


def test_loading_changes_into_the_model_directory(model: Model) -> None:
    directory = model(
        "text = __import__('pathlib').Path('labels.txt').read_text()\n" + returning("1"),
        labels__txt="cat",
    )
    application.load(str(directory))
    assert Path.cwd() == directory


def test_the_description_and_the_body_kind(model: Model) -> None:
    source = "class Net:\n def __init__(self, config): 0\n def predict(self, data, params): 0"
    blueprint = application.load(str(model(source)))
    assert blueprint.description == [
        ("predictor", "predictor.py: Net(config).predict(data, params)")
    ]


def test_an_async_predict_is_described_as_such(model: Model) -> None:
    source = "class Net:\n async def predict(self, data): 0"
    blueprint = application.load(str(model(source)))
    assert blueprint.description == [("predictor", "predictor.py: await Net().predict(data)")]


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ("json", "json"),
        ("params, payload", "json"),
        ("data", "data"),
        ("request", "data"),
        ("params", "none"),
        ("", "none"),
    ],
)
def test_the_kind_of_body_a_request_should_carry(model: Model, parameters: str, kind: str) -> None:
    assert application.load(str(model(returning("1", parameters)))).body_kind == kind


PLAIN = "class Predictor:\n def predict(self): 0\n"
ASYNC = "class Predictor:\n async def predict(self): 0\n"
ALL = (
    "class Predictor:\n def __init__(self, onnx): 0\n def predict(self): 0\n def health(self): 0\n"
)
BATCH = " def predict_batch(self, json): 0\n"


@pytest.mark.parametrize(
    ("source", "lacking"),
    [
        (PLAIN, {"onnx", "predict_batch", "health", "async def predict"}),
        (ASYNC, {"onnx", "predict_batch", "health", "def predict"}),
        (ASYNC + BATCH, {"onnx", "health"}),  # in batches by --threads, else by the other
        (ALL + BATCH, {"async def predict"}),
        (
            PLAIN + " def predict_batch(self, own): 0",
            {"onnx", "predict_batch", "health", "async def predict"},
        ),
        ("class Predictor:\n" + BATCH, {"onnx", "health", "async def predict"}),
    ],
)
def test_what_options_need_and_is_not_there_is_known(
    model: Model, source: str, lacking: set[str]
) -> None:
    assert set(application.load(str(model(source, net__onnx=""))).lacks) == lacking


def test_what_is_not_there_is_said_in_words(model: Model) -> None:
    assert application.load(str(model(PLAIN))).lacks == {
        "onnx": "Predictor.__init__ asks for no onnx",
        "predict_batch": "Predictor has no predict_batch",
        "health": "Predictor has no health()",
        "async def predict": "Predictor.predict is not async def",
    }
    lacks = application.load(str(model(ASYNC + " def predict_batch(self, own): 0"))).lacks
    assert lacks["predict_batch"].startswith("Predictor.predict_batch: unknown parameter 'own'")
    assert lacks["def predict"] == "Predictor.predict is async def"


def test_mistakes_are_known_before_anything_is_built(model: Model) -> None:
    with pytest.raises(InjectionError, match="jsno"):
        application.load(str(model(returning("1", "jsno"))))


def test_a_missing_onnx_file_is_known_before_anything_is_built(model: Model) -> None:
    source = "class Predictor:\n def __init__(self, onnx): 0\n def predict(self): 0"
    with pytest.raises(LoadError, match=r"no \.onnx file"):
        application.load(str(model(source)))


def test_the_onnx_file_is_found_and_described(model: Model) -> None:
    source = "class Predictor:\n def __init__(self, onnx): 0\n def predict(self): 0"
    directory = model(source, a__onnx="", b__onnx="")
    blueprint = application.load(str(directory), model_path="b.onnx")
    session = blueprint.assets.session
    assert session is not None
    assert session.model == directory / "b.onnx"
    assert ("onnx", "b.onnx: cpu, 1 thread") in blueprint.description


def test_a_model_path_is_relative_to_where_one_was(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = "class Predictor:\n def __init__(self, onnx): 0\n def predict(self): 0"
    (tmp_path / "x.onnx").touch()
    directory = model(source)
    monkeypatch.chdir(tmp_path)
    blueprint = application.load("model", model_path="x.onnx")
    session = blueprint.assets.session
    assert session is not None
    assert session.model == tmp_path / "x.onnx"
    assert ("onnx", "../x.onnx: cpu, 1 thread") in blueprint.description
    assert Path.cwd() == directory


def test_an_abstract_class_cannot_be_served(model: Model) -> None:
    source = """
        import abc
        class Predictor(abc.ABC):
            @abc.abstractmethod
            def predict(self): ...
    """
    with pytest.raises(LoadError, match="Predictor is abstract: it lacks predict"):
        application.load(str(model(source)))


def test_a_class_that_is_there_already_is_adopted(model: Model) -> None:
    directory = model(returning("[data.decode()]", "data"))
    predictor = application.load(str(directory)).predictor
    os.chdir("/")
    blueprint = application.adopt(predictor)
    assert (blueprint.file, Path.cwd()) == (directory / "predictor.py", directory)


@pytest.mark.parametrize(
    ("predictor", "message"),
    [(type("Typed", (), {"__module__": "nowhere"}), "not defined in a file"), (5, "not a int")],
)
def test_what_cannot_be_adopted(predictor: Any, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        application.adopt(predictor)


SESSION_THREADS = """
    class Predictor:
        def __init__(self, onnx):
            self.threads = onnx.get_session_options().intra_op_num_threads

        def predict(self):
            return self.threads
"""


def test_create_makes_the_session_that_is_asked_for(model: Model) -> None:
    directory = model(SESSION_THREADS)
    (directory / "net.onnx").write_bytes(onnx_models.dense(width=2, layers=1))
    app = application.create(str(directory), onnx={"threads": 2, "providers": "cpu"})
    bodies = app({"REQUEST_METHOD": "POST", "PATH_INFO": "/"}, lambda *_: lambda data: None)
    assert b"".join(bodies) == b"2"


def test_create_gives_an_application_for_any_server(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBAYES_SERVING_PRODUCTION", "1")
    app = application.create(str(model(FAILING)))
    bodies = app({"REQUEST_METHOD": "POST", "PATH_INFO": "/"}, lambda *_: lambda data: None)
    assert b"".join(bodies) == b'{"error":"Internal Server Error"}'
