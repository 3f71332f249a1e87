"""What predict may ask for, and what it is given."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping

from contract.rows import BINARY, JSON, TEXT, Case, Model, single, to_json

ABOUT_PREDICT = """
SHOWN = {
    "json": lambda v: v,
    "payload": lambda v: v,
    "data": lambda v: [type(v).__name__, v.decode()],
    "params": lambda v: [isinstance(v, dict), v.get("q"), v["q"], v.getlist("q"), v.get("absent")],
    "headers": lambda v: [
        isinstance(v, dict), v["x-thing"], v.get("X-THING"), "x-Thing" in v, v.get("absent")
    ],
    "request": lambda v: [type(v).__module__, v.method, v.args["q"], v.get_json(), v.data.decode()],
}
SHOWN["args"] = SHOWN["params"]

class Predictor:
    def predict($parameters):
        given = dict(locals())
        del given["self"]
        return {
            name: SHOWN[name](value) if name in $known else value
            for name, value in sorted(given.items())
        }
"""
KNOWN = ("json", "payload", "data", "params", "args", "headers", "request")
CONTENT = b'{"a": [1, "\xe7\x8c\xab"]}'
PARSED = {"a": [1, "猫"]}
SEEN: dict[str, object] = {
    "json": PARSED,
    "payload": PARSED,
    "data": ["bytes", CONTENT.decode()],
    "params": [True, "1", "1", ["1", "2 é&"], None],
    "args": [True, "1", "1", ["1", "2 é&"], None],
    "headers": [True, "Yes", "Yes", True, None],
    "request": ["flask.wrappers", "POST", "1", PARSED, CONTENT.decode()],
}
REST: dict[str, object] = {"args": [], "kwargs": {}, "other": None, "threshold": 0.5}
PREDICT = {
    # parameters after self, and what predict finds in those that the contract does not name
    "predict-nothing": ("", {}),
    "predict-contract-order": (", json, payload, data, params, args, headers, request", {}),
    "predict-reversed-keywords": (
        ", *, request, headers, args, params, data, payload, json",
        {},
    ),
    "predict-all-kinds": (", request, data, /, headers, json, *, payload, args", {}),
    "predict-annotated": (
        ", json: bytes, data: int, params: 'Undefined', args: list, request: dict, headers: str",
        {},
    ),
    "predict-filled-defaults": (", headers=1, json=None, data=2, params=3, request=4", {}),
    "predict-data-request": (", data, request", {}),
    "predict-request-data": (", request, data", {}),
    "predict-extras": (", json, threshold=0.5, *args, data, other=None, **kwargs", REST),
    "predict-args": (", args", {}),
    "predict-headers": (", headers", {}),
}
THING = {"Content-Type": JSON, "X-Thing": "Yes"}
QUERY = "/?q=1&q=2+%C3%A9%26"
FLASK = """
import flask

class Predictor:
    def predict(self, request):
        return {
            "same": lambda: [flask.request == request, type(request) is flask.Request],
            "form": lambda: [request.form["a"], request.form.getlist("b")],
            "file": lambda: [request.files["image"].filename, request.files["image"].read()],
            "cookie": lambda: flask.request.cookies["name"],
            "app": lambda: flask.current_app.name != "",
            "json": lambda: request.get_json(),
            "stream": lambda: (flask.request.args["see"] for _ in range(2)),
        }[request.args["see"]]()
"""
MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="cat.png"\r\n'
    b"Content-Type: image/png\r\n\r\n\x89PNG\r\n--x--\r\n"
)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def argument_cases() -> Iterator[Case]:
    for name, (parameters, unfilled) in PREDICT.items():
        known = [word for word in KNOWN if re.search(rf"(?<!\*)\b{word}\b", parameters)]
        source = string.Template(ABOUT_PREDICT).substitute(
            parameters="self" + parameters, known=repr(known)
        )
        seen = {word: SEEN[word] for word in known} | dict(unfilled)
        yield Case(
            name,
            single(name, source),
            content_type=JSON,
            body=to_json(dict(sorted(seen.items()))),
            path=QUERY,
            headers=THING,
            content=CONTENT,
        )
    yield from request_cases()
    yield from data_cases()
    yield from params_cases()


def request_cases() -> Iterator[Case]:
    model = single("predict-request", FLASK)

    def case(see: str, value: object, headers: Mapping[str, str], content: bytes) -> Case:
        is_text = isinstance(value, str)
        body = value.encode() if isinstance(value, str) else to_json(value)
        return Case(
            f"request-{see}",
            model,
            content_type=TEXT if is_text else JSON,
            body=body,
            path=f"/?see={see}",
            headers=headers,
            content=content,
        )

    yield case("same", [True, True], {}, b"")
    yield case("form", ["1", ["猫", "3"]], FORM, b"a=1&b=%E7%8C%AB&b=3")
    yield case(
        "file",
        ["cat.png", "iVBORw=="],
        {"Content-Type": "multipart/form-data; boundary=x"},
        MULTIPART,
    )
    yield case("cookie", "value", {"Cookie": "other=1; name=value"}, b"")
    yield case("app", True, {}, b"")
    yield case("json", {"a": 1}, {"Content-Type": JSON}, b'{"a": 1}')
    yield Case(
        "request-stream", model, content_type=TEXT, body=b"streamstream", path="/?see=stream"
    )
    yield Case(
        "request-without-flask",
        Model(
            "predict-without-flask",
            {
                "predictor.py": """
class Predictor:
    def predict(self, request, data):
        return [type(request).__module__, request.form["a"], len(data)]
""",
                "flask.py": "raise ImportError('not here')\n",
            },
        ),
        content_type=JSON,
        body=b'["werkzeug.wrappers.request","1",3]',
        headers=FORM,
        content=b"a=1",
    )


def data_cases() -> Iterator[Case]:
    model = single(
        "predict-data",
        """
class Predictor:
    def predict(self, data):
        assert type(data) is bytes
        return data
""",
    )
    types = {
        "none": {},
        "json": {"Content-Type": JSON},
        "form": FORM,
        "multipart": {"Content-Type": "multipart/form-data; boundary=x"},
        "text": {"Content-Type": "text/plain; charset=utf-16"},
    }
    for name, headers in types.items():
        for kind, content in {"some": MULTIPART, "binary": b"\x00\xff{", "empty": b""}.items():
            yield Case(
                f"data-{name}-{kind}",
                model,
                content_type=BINARY,
                body=content,
                headers=headers,
                content=content,
            )
    yield Case(
        "data-chunked",
        model,
        content_type=BINARY,
        body=b"in chunks",
        headers={"Transfer-Encoding": "chunked"},
        content=b"3\r\nin \r\n6\r\nchunks\r\n0\r\n\r\n",
    )


def params_cases() -> Iterator[Case]:
    model = single(
        "predict-params",
        """
class Predictor:
    def predict(self, params):
        return [{name: params.getlist(name) for name in params}, params.get("foo"), len(params)]
""",
    )
    queries: dict[str, tuple[str, list[object]]] = {
        "none": ("/", [{}, None, 0]),
        "empty": ("/?", [{}, None, 0]),
        "one": ("/?foo=bar", [{"foo": ["bar"]}, "bar", 1]),
        "several": ("/?foo=a&x=1&foo=b", [{"foo": ["a", "b"], "x": ["1"]}, "a", 2]),
        "blank": ("/?foo=&x", [{"foo": [""], "x": [""]}, "", 2]),
        "encoded": (
            "/?foo=a+b%20c%26%3D&%E7%8C%AB=%F0%9F%90%88",
            [{"foo": ["a b c&="], "猫": ["🐈"]}, "a b c&=", 2],
        ),
    }
    for name, (path, seen) in queries.items():
        yield Case(f"params-{name}", model, content_type=JSON, body=to_json(seen), path=path)
