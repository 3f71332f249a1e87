"""The predictor contract as a table: model directories, requests to them, and the exact answers.

A row of a model costs one request; a model costs a server. Rows of a model stand together, so that
a test that goes through the table needs one server at a time.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
from harness import ROOT, Reply

PREDICTORS = ROOT / "tests" / "predictors"
JSON = "application/json"
MSGPACK = "application/msgpack"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"
LINES = "application/x-ndjson"
EVENTS = "text/event-stream"
IN_PRODUCTION = {"OPENBAYES_SERVING_PRODUCTION": "1"}


@dataclass(frozen=True)
class Model:
    """A model directory, and what its server is started with."""

    name: str
    files: Mapping[str, str | bytes]
    class_name: str | None = None
    model_path: str | None = None
    options: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = False

    def write(self, directory: Path) -> Path:
        """Write the files into a new directory in `directory`."""
        root = directory / self.name
        root.mkdir()
        for name, content in self.files.items():
            file = root / name
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        if self.read_only:
            for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
                folder.chmod(0o555)
        return root

    @property
    def argv(self) -> list[str]:
        """Return what stands before the directory on the command line."""
        given = {"--class": self.class_name, "--model-path": self.model_path}
        chosen = [part for flag, value in given.items() if value for part in (flag, value)]
        return [*self.options, *chosen]


@dataclass(frozen=True)
class Case:
    """A request, and the answer that the contract gives it.

    `body` is exact, or a pattern for all of it. `server_level` says why only our own HTTP server
    answers like that.
    """

    id: str
    model: Model
    status: int = 200
    content_type: str | None = None
    body: bytes | re.Pattern[bytes] = b""
    answer: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    server_level: str = ""

    def differences(self, reply: Reply) -> list[str]:
        """Return how `reply` differs from what the contract says."""
        found = []
        if reply.status != self.status:
            found.append(f"status {reply.status}, not {self.status}")
        expected = dict(self.answer)
        if self.content_type is not None:
            expected["Content-Type"] = self.content_type
        for name, value in expected.items():
            if reply.headers.get(name.lower()) != value:
                found.append(f"{name}: {reply.headers.get(name.lower())}, not {value}")
        matches = (
            self.body == reply.body
            if isinstance(self.body, bytes)
            else self.body.fullmatch(reply.body) is not None
        )
        if not matches:
            found.append(f"body {reply.body!r}, not {self.body!r}")
        return found


@dataclass(frozen=True)
class Refusal:
    """A model that cannot be served: the exit code, and what the message names, in order."""

    model: Model
    exit_code: int
    named: tuple[str, ...]


def to_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def error(message: str) -> bytes:
    return to_json({"error": message})


def to_msgpack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def with_traceback(last_line: str) -> re.Pattern[bytes]:
    """The answer to a failure outside production: nothing of ours is in its traceback."""
    quoted = re.escape(to_json(last_line)[1:-1])
    start = rb'\{"error":"Internal Server Error","traceback":"Traceback \(most recent call last\):'
    return re.compile(
        start + rb"((?!obworker/).)*predictor\.py((?!obworker/).)*" + quoted + rb'\\n"\}'
    )


def single(name: str, source: str, **more: str | None) -> Model:
    """A model of nothing but a predictor.py."""
    return Model(name, {"predictor.py": source}, **more)  # type: ignore[arg-type]


INTERNAL = error("Internal Server Error")
UP = to_json({"message": "The predictor is up; POST to / for a prediction"})
NOT_FOUND = error("Not Found: POST to / for a prediction")
OFFERED = (
    "application/json, application/msgpack, application/x-msgpack, application/vnd.msgpack,"
    " application/vnd.messagepack"
)

# A model directory, and which class of it

FILES = Model(
    "files",
    {
        "predictor.py": """
import os
import pathlib
import openbayes_serving as serv
from models.experimental import Scaler, attempt

class Settings:
    pass

class PythonPredictor:
    def __init__(self):
        with open("labels.txt") as file:
            self.labels = file.read().split()

    def predict(self, params):
        return {
            "class": lambda: type(self).__name__,
            "labels": lambda: self.labels,
            "later": lambda: pathlib.Path("data/deep.txt").read_text(),
            "sibling": lambda: attempt(2),
            "dotenv": lambda: [os.environ.get("GREETING"), os.environ.get("QUOTED")],
            "environ": lambda: os.environ.get("FROM_OUTSIDE"),
            "cwd": lambda: os.path.samefile(os.getcwd(), os.path.dirname(__file__)),
            "name": lambda: __name__ != "__main__",
            "serv": lambda: [callable(serv.run), callable(serv.emit_event)],
        }[params["see"]]()

if __name__ == "__main__":
    raise SystemExit("the guard ran")
""",
        "models/__init__.py": "",
        "models/experimental.py": """
class Scaler:
    def predict(self, json):
        return "the wrong class"

def attempt(n):
    return n * 21
""",
        "labels.txt": "cat\ndog\n",
        "data/deep.txt": "deep",
        ".env": "GREETING=hello\nQUOTED='a b'\nFROM_OUTSIDE=.env\n",
        "requirements.txt": "this-package-does-not-exist==0\n",
        "conda-packages.txt": "neither-does-this\n",
        "dependencies.sh": "echo dependencies > installed\n",
        # what an installed openbayes-serving would be: never imported
        "openbayes_serving/__init__.py": "raise RuntimeError('the wrong openbayes_serving')\n",
    },
    environ={"FROM_OUTSIDE": "outside"},
    read_only=True,
)
TWO = """
class Other:
    def predict(self):
        return "Other"

class Predictor:
    def predict(self):
        return "Predictor"
"""
CLASSES = {
    "Predictor": single("class-predictor", TWO),
    "Other": single("class-named", TWO, class_name="Other"),
    "Unguarded": single(
        "class-unguarded",
        TWO
        + """
import openbayes_serving

class Unguarded:
    def predict(self):
        return "Unguarded"

openbayes_serving.run(Unguarded)
""",
    ),
    "Derived": Model(
        "class-imported",
        {
            "predictor.py": """
from base import Base, Another

class Derived(Base):
    pass
""",
            "base.py": """
class Base:
    def predict(self):
        return type(self).__name__

class Another(Base):
    pass
""",
        },
    ),
}


def file_cases() -> Iterator[Case]:
    seen = {
        "labels": ["cat", "dog"],
        "later": "deep",
        "sibling": 42,
        "dotenv": ["hello", "a b"],
        "environ": "outside",
        "cwd": True,
        "name": True,
        "serv": [True, True],
        "class": "PythonPredictor",
    }
    for name, value in seen.items():
        is_text = isinstance(value, str)
        yield Case(
            f"files-{name}",
            FILES,
            content_type=TEXT if is_text else JSON,
            body=value.encode() if isinstance(value, str) else to_json(value),
            path=f"/?see={name}",
        )
    for name, model in CLASSES.items():
        yield Case(model.name, model, content_type=TEXT, body=name.encode())


# __init__

# y = Identity(x), float32 of shape [2]: IR version 8, opset 13
IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020802"
    "620f0a0179120a0a08080112040a0208024202100d"
)
ABOUT_INIT = """
class Predictor:
    def __init__($parameters):
        self.seen = {name: value for name, value in locals().items() if name != "self"}

    def predict(self):
        shown = {}
        for name, value in self.seen.items():
            known = name in ("onnx", "config")
            shown[name] = type(value).__name__ if known else value
        return dict(sorted(shown.items()))
"""
INIT = {
    # name: parameters, what it sees of them
    "init-onnx": ("self, onnx", {"onnx": "InferenceSession"}),
    "init-config": ("self, config", {"config": "Config"}),
    "init-both": (
        "self, onnx, config, /",
        {"config": "Config", "onnx": "InferenceSession"},
    ),
    "init-extras": (
        "self, config: list, threshold=0.5, *args, onnx: 'Undefined' = 1, scale: int = 2, **kwargs",
        {
            "args": [],
            "config": "Config",
            "kwargs": {},
            "onnx": "InferenceSession",
            "scale": 2,
            "threshold": 0.5,
        },
    ),
    "init-defaults": ("self, path='x', *, device='cpu'", {"device": "cpu", "path": "x"}),
}
ONNX_RUN = """
import numpy as np

class Predictor:
    def __init__(self, onnx):
        self.onnx = onnx

    def predict(self, json):
        return self.onnx.run(None, {"x": np.array(json, dtype=np.float32)})
"""


def init_cases() -> Iterator[Case]:
    for name, (parameters, seen) in INIT.items():
        source = string.Template(ABOUT_INIT).substitute(parameters=parameters)
        files: dict[str, str | bytes] = {"predictor.py": source}
        if "onnx" in parameters:
            files["net.onnx"] = IDENTITY
        yield Case(name, Model(name, files), content_type=JSON, body=to_json(seen))
    models = {"a.onnx": b"not a model", "b.onnx": IDENTITY, "sub/c.onnx": IDENTITY}
    for name, model_path in {"file": "b.onnx", "directory": "sub"}.items():
        yield Case(
            f"model-path-{name}",
            Model(
                f"model-path-{name}", {"predictor.py": ONNX_RUN, **models}, model_path=model_path
            ),
            content_type=JSON,
            body=b"[[1.0,2.5]]",
            headers={"Content-Type": JSON},
            content=b"[1, 2.5]",
        )


# predict's parameters

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
    # name: parameters after self, what it sees of those that are not filled
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


def predict_cases() -> Iterator[Case]:
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


# json and payload by Content-Type

ECHO = """
class Predictor:
    def predict(self, $name):
        return [type($name).__name__, repr($name)]
"""
NEITHER = "Content-Type {} is neither application/json nor application/msgpack"
PACKED = to_msgpack(PARSED)
# Content-Type, body, value
PARSABLE: dict[str, tuple[str, bytes, object]] = {
    "json": (JSON, CONTENT, PARSED),
    "json-charset": ("application/json; charset=utf-8", CONTENT, PARSED),
    "json-charset-quoted": ('application/json;charset="UTF-8"', CONTENT, PARSED),
    "json-charset-utf8": ("application/json; charset=utf8", CONTENT, PARSED),
    "json-charset-gbk": ("application/json; charset=GBK", '["猫"]'.encode("gbk"), ["猫"]),
    "json-charset-latin1": ("application/json; charset=iso-8859-1", b'"\xe9"', "é"),
    "json-parameters": ("application/json; profile=x; version=1", CONTENT, PARSED),
    "json-spaces": ("application/json ; charset=utf-8 ", CONTENT, PARSED),
    "json-upper-case": ("Application/JSON", CONTENT, PARSED),
    "json-suffix": ("application/vnd.api+json", CONTENT, PARSED),
    "json-suffix-parameters": ("application/LD+JSON; profile=x", CONTENT, PARSED),
    "json-whitespace": (JSON, b' \n{"a" : 1}\r\n', {"a": 1}),
    "json-escapes": (JSON, b'"\\u732b \\ud83d\\udc08"', "猫 🐈"),
    "json-scalar": (JSON, b"7", 7),
    "json-null": (JSON, b"null", None),
    "json-float": (JSON, b"1.5e3", 1500.0),
    "json-big": (JSON, b"123456789012345678901234567890", 123456789012345678901234567890),
    "msgpack": (MSGPACK, PACKED, PARSED),
    "msgpack-x": ("application/x-msgpack", PACKED, PARSED),
    "msgpack-vnd": ("application/vnd.msgpack", PACKED, PARSED),
    "msgpack-vnd-messagepack": ("application/vnd.messagepack", PACKED, PARSED),
    "msgpack-upper-case": ("APPLICATION/X-MSGPACK", PACKED, PARSED),
    "msgpack-suffix": ("application/vnd.own+msgpack", PACKED, PARSED),
    "msgpack-parameters": ("application/msgpack; charset=utf-8; version=2", PACKED, PARSED),
    "msgpack-bytes": (MSGPACK, to_msgpack({"image": b"\x89PNG"}), {"image": b"\x89PNG"}),
    "msgpack-keys": (MSGPACK, to_msgpack({1: "a", None: 2}), {1: "a", None: 2}),
    "msgpack-scalar": (MSGPACK, b"\x07", 7),
}
# Content-Type, body, message
UNPARSABLE: dict[str, tuple[str | None, bytes, str]] = {
    "missing": (None, CONTENT, "no Content-Type; send application/json or application/msgpack"),
    "text": ("text/plain", CONTENT, NEITHER.format("text/plain")),
    "text-json": ("text/json", CONTENT, NEITHER.format("text/json")),
    "form": ("application/x-www-form-urlencoded", b"a=1", NEITHER.format(FORM["Content-Type"])),
    "multipart": (
        "multipart/form-data; boundary=x",
        MULTIPART,
        NEITHER.format("multipart/form-data"),
    ),
    "no-suffix": ("application/jsonx", CONTENT, NEITHER.format("application/jsonx")),
    "nonsense": ("json", CONTENT, NEITHER.format("json")),
    "json-empty": (JSON, b"", "the body is empty; it should be JSON"),
    "json-cut": (JSON, b'{"a": 1', "the body is not valid JSON: "),
    "json-trailing": (JSON, b"{} x", "the body is not valid JSON: "),
    "json-nan": (JSON, b"[NaN]", "the body is not valid JSON: "),
    "json-not-utf8": (JSON, b'"\xff"', "the body is not valid JSON: "),
    "json-not-gbk": ("application/json; charset=gbk", b'"\xff"', "the body is not gbk text"),
    "json-charset-unknown": (
        "application/json; charset=klingon",
        b"1",
        "unknown charset 'klingon'",
    ),
    "json-is-msgpack": (JSON, PACKED, "the body is not valid JSON: "),
    "msgpack-empty": (MSGPACK, b"", "the body is empty; it should be MessagePack"),
    "msgpack-cut": (MSGPACK, b"\x82\x01", "the body is not valid MessagePack: "),
    "msgpack-trailing": (MSGPACK, b"\x01\x02", "the body is not valid MessagePack: "),
    "msgpack-never-used": (MSGPACK, b"\xc1", "the body is not valid MessagePack: "),
    "msgpack-is-json": (MSGPACK, CONTENT, "the body is not valid MessagePack: "),
}


def content_type_cases() -> Iterator[Case]:
    for name in ("json", "payload"):
        model = single(f"predict-{name}", string.Template(ECHO).substitute(name=name))
        for id_, (content_type, content, value) in PARSABLE.items():
            yield Case(
                f"{name}-{id_}",
                model,
                content_type=JSON,
                body=to_json([type(value).__name__, repr(value)]),
                headers={"Content-Type": content_type},
                content=content,
            )
        for id_, (given, content, message) in UNPARSABLE.items():
            headers = {} if given is None else {"Content-Type": given}
            if name == "payload":
                echo = to_json(["bytes", repr(content)])
                yield Case(
                    f"{name}-{id_}",
                    model,
                    content_type=JSON,
                    body=echo,
                    headers=headers,
                    content=content,
                )
                continue
            # what is wrong with JSON is said in the words of the parser
            pattern = re.escape(error(message)[:-2]) + (rb".+" if message.endswith(" ") else b"")
            yield Case(
                f"{name}-{id_}",
                model,
                400,
                JSON,
                re.compile(pattern + rb'"\}'),
                headers=headers,
                content=content,
            )


# What predict may return

RETURNS = Model(
    "returns",
    {"predictor.py": (PREDICTORS / "returns" / "predictor.py").read_bytes()},
    options=("--threads", "2", "--limit-request-body", "64KiB"),
)
PNG = b"\x89PNG\r\n\x1a\n\x00\x00"
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"
# Accept, and the type that is chosen
ACCEPTS: dict[str, tuple[str | None, str | None]] = {
    "absent": (None, JSON),
    "empty": ("", JSON),
    "json": (JSON, JSON),
    "any": ("*/*", JSON),
    "any-application": ("application/*", JSON),
    "browser": ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
    "prefers-json": ("application/msgpack;q=0.8, application/json;q=0.9", JSON),
    "msgpack": (MSGPACK, MSGPACK),
    "x-msgpack": ("application/x-msgpack", "application/x-msgpack"),
    "vnd.msgpack": ("application/vnd.msgpack", "application/vnd.msgpack"),
    "vnd.messagepack": ("application/vnd.messagepack", "application/vnd.messagepack"),
    "upper-case": ("APPLICATION/MSGPACK", MSGPACK),
    "prefers-msgpack": ("application/json;q=0.5, application/msgpack", MSGPACK),
    "not-json": ("application/json;q=0, */*", MSGPACK),
    "event-stream": (EVENTS, None),
    "html": ("text/html", None),
    "refuses-json": ("application/json;q=0", None),
}
SOME_ACCEPTS = ("absent", "json", "msgpack", "x-msgpack", "html", "event-stream")


@dataclass(frozen=True)
class Both:
    """A value as JSON and as MessagePack; by default both have the same value."""

    json: object
    msgpack: object = ...

    def encoded(self, media_type: str) -> bytes:
        if media_type == JSON:
            return self.json if isinstance(self.json, bytes) else to_json(self.json)
        return to_msgpack(self.json if self.msgpack is ... else self.msgpack)


VALUES = {
    "dict": Both({"a": 1, "b": [True, None]}),
    "list": Both([1, 2, 3]),
    "tuple": Both([[[1, 2]], ["cat"]]),
    "empty-list": Both([]),
    "namedtuple": Both([1, 2.5]),
    "status-tuple": Both(["x", 201]),
    "defaultdict": Both({"a": 1}),
    "int": Both(7),
    "big": Both(2**64 - 1),
    "float": Both(0.5),
    "true": Both(True),
    "false": Both(False),
    "none": Both(None),
    "enum": Both({"level": 3}),
    "keys": Both(
        {"1": "int", "2.5": "float", "null": "none", "false": "bool"},
        {1: "int", 2.5: "float", None: "none", False: "bool"},
    ),
    "utf8": Both({"标签": "猫 🐈 é"}),
    "bytes-inside": Both(
        {"image": "iVBORw0KGgoAAA==", "all": ["", "/w=="]}, {"image": PNG, "all": [b"", b"\xff"]}
    ),
    "float32": Both(0.5),
    "float64": Both(0.25),
    "int64": Both(-3),
    "uint8": Both(255),
    "bool_": Both(True),
    "array": Both([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]),
    "transposed": Both([[0, 3], [1, 4], [2, 5]]),
    "strided": Both([0, 2, 4]),
    "half": Both([0.5, 1.5]),
    "bools": Both([True, False]),
    "empty-array": Both([]),
    "zero-dimensional": Both(4),
    "texts": Both(["cat", "狗"]),
    "objects": Both([1, "a", None]),
    "in-dict": Both({"scores": [0.5], "best": 0, "pair": [1.0]}),
    "numpy-keys": Both({"3": 1, "a": 2}, {3: 1, "a": 2}),
}
# the same whatever is accepted: content type, body
FIXED = {
    "str": (TEXT, "class 1 猫".encode()),
    "empty-str": (TEXT, b""),
    "numpy-str": (TEXT, b"cat"),
    "bytes": (BINARY, b"\x80\x04pickle"),
    "empty-bytes": (BINARY, b""),
    "png": ("image/png", PNG),
    "jpeg": ("image/jpeg", JPEG),
    "almost-png": (BINARY, PNG[1:]),
}
# status, content type, headers, body
PASSED: dict[str, tuple[int, str | None, dict[str, str], bytes | re.Pattern[bytes]]] = {
    "flask": (200, TEXT, {}, b"class 1"),
    "flask-status": (201, "a/b", {"X-Own": "yes"}, b"made"),
    "flask-empty": (204, None, {}, b""),
    "flask-generator": (200, "a/b", {}, b"ab"),
    "jsonify": (200, JSON, {}, b'{"a":1}\n'),
    "make-response": (202, JSON, {}, b'{"a":2}\n'),
    "redirect": (
        302,
        "text/html; charset=utf-8",
        {"Location": "/elsewhere"},
        re.compile(rb"(?s).+/elsewhere.+"),
    ),
    "send-file": (200, "image/png", {}, PNG),
    "werkzeug": (202, TEXT, {"X-Own": "w"}, b"made"),
    "wsgi": (207, "text/x-own", {"X-Own": "yes"}, b"own POST"),
    "wsgi-object": (200, "text/x-object", {}, b"an object"),
    "wsgi-app": (200, JSON, {}, b'{"flask":"wsgi-app"}\n'),
    "exception-returned": (410, TEXT, {}, b"gone"),
}
# content type, body; body as events
STREAMED: dict[str, tuple[str, bytes, bytes]] = {
    "stream-str": (
        TEXT,
        "a猫b\nc".encode(),
        "data: a\n\ndata: \n\ndata: 猫\n\ndata: b\ndata: c\n\n".encode(),
    ),
    "stream-bytes": (BINARY, b"\x00ab", b"data: \x00a\n\ndata: \n\ndata: b\n\n"),
    "stream-png": (
        "image/png",
        PNG + b"rest",
        "data: \ufffdPNG\ndata: \x1a\ndata: \x00\x00\n\ndata: rest\n\n".encode(),
    ),
    "stream-dict": (
        LINES,
        '{"n":0,"猫":0}\n{"n":1,"猫":1}\n'.encode(),
        'data: {"n":0,"猫":0}\n\ndata: {"n":1,"猫":1}\n\n'.encode(),
    ),
    "stream-mixed": (
        LINES,
        b'{"a":1}\ntextbytesnull\n[1]\n2\n',
        b'data: {"a":1}\n\ndata: text\n\ndata: bytes\n\ndata: null\n\ndata: [1]\n\ndata: 2\n\n',
    ),
    "stream-map": (TEXT, b"012", b"data: 0\n\ndata: 1\n\ndata: 2\n\n"),
    "stream-iterator": (LINES, b"2\n1\n0\n", b"data: 2\n\ndata: 1\n\ndata: 0\n\n"),
    "stream-empty": (TEXT, b"", b""),
}
STREAM_ACCEPTS = {
    "absent": None,
    "any": "*/*",
    "json": JSON,
    "msgpack": MSGPACK,
    "impossible": "text/html",
    "events": EVENTS,
    "events-among-others": "text/event-stream;charset=utf-8, */*;q=0.1",
    "no-events": "text/event-stream;q=0, */*",
}
UNSENDABLE = {
    "set": "set",
    "object": "Thing",
    "set-inside": "set",
    "class": "type",
    "complex": "complex",
}
# status, headers, body
RAISED: dict[str, tuple[int, dict[str, str], bytes]] = {
    "abort-418": (418, {}, error("This server is a teapot, not a coffee machine")),
    "abort-413": (413, {}, error("The data value transmitted exceeds the capacity limit.")),
    "abort-403": (403, {}, error("no entry")),
    "abort-405": (
        405,
        {"Allow": "PUT"},
        error("The method is not allowed for the requested URL."),
    ),
    "abort-503": (503, {"Retry-After": "3"}, error("busy")),
    "abort-generator": (409, {}, error("twice")),
}


def accepting(accept: str | None) -> dict[str, str]:
    return {} if accept is None else {"Accept": accept}


def value_cases() -> Iterator[Case]:
    for id_ in ("absent", "json"):  # in MessagePack there are no such integers
        yield Case(
            f"huge-accept-{id_}",
            RETURNS,
            content_type=JSON,
            body='{"猫":18446744073709551616}'.encode(),
            path="/?case=huge",
            headers=accepting(ACCEPTS[id_][0]),
        )
    for name, value in VALUES.items():
        for id_, (accept, chosen) in ACCEPTS.items():
            if id_ not in SOME_ACCEPTS and name not in ("dict", "none", "bytes-inside"):
                continue
            unacceptable = error(f"none of {accept} can be had; there is {OFFERED}")
            yield Case(
                f"{name}-accept-{id_}",
                RETURNS,
                200 if chosen else 406,
                chosen or JSON,
                value.encoded(chosen) if chosen else unacceptable,
                path=f"/?case={name}",
                headers=accepting(accept),
            )


def fixed_cases() -> Iterator[Case]:
    for id_ in SOME_ACCEPTS:
        headers = accepting(ACCEPTS[id_][0])
        for name, (content_type, body) in FIXED.items():
            length = {"Content-Length": str(len(body))}
            yield Case(
                f"{name}-accept-{id_}",
                RETURNS,
                200,
                content_type,
                body,
                length,
                path=f"/?case={name}",
                headers=headers,
            )
        for name, (status, passed_type, answer, passed) in PASSED.items():
            yield Case(
                f"{name}-accept-{id_}",
                RETURNS,
                status,
                passed_type,
                passed,
                answer,
                path=f"/?case={name}",
                headers=headers,
            )


def stream_cases() -> Iterator[Case]:
    for name, (content_type, body, events) in STREAMED.items():
        for id_, accept in STREAM_ACCEPTS.items():
            as_events = id_ in ("events", "events-among-others")
            yield Case(
                f"{name}-accept-{id_}",
                RETURNS,
                200,
                EVENTS if as_events else content_type,
                events if as_events else body,
                {"Cache-Control": "no-cache"} if as_events else {},
                path=f"/?case={name}",
                headers=accepting(accept),
            )


# What goes wrong

PRODUCTION = Model("production", RETURNS.files, options=RETURNS.options, environ=IN_PRODUCTION)
ID = {"X-Request-ID": "r-1"}


def failure_cases() -> Iterator[Case]:
    for model in (RETURNS, PRODUCTION):
        local = model is RETURNS
        for name, kind in UNSENDABLE.items():
            for id_ in ("absent", "msgpack"):
                pattern = (
                    rb'\{"error":"Internal Server Error","traceback":"predict returned what'
                    rb" cannot be sent: a [\w.]*"
                    + kind.encode()
                    + rb' cannot be sent; allowed are [\w, ]+"\}'
                )
                yield Case(
                    f"{model.name}-{name}-accept-{id_}",
                    model,
                    500,
                    JSON,
                    re.compile(pattern) if local else INTERNAL,
                    ID,
                    path=f"/?case={name}",
                    headers=accepting(ACCEPTS[id_][0]) | ID,
                )
        for name, last in {
            "raise": "ValueError: secret 猫",
            "raise-generator": "KeyError: 'secret'",
        }.items():
            yield Case(
                f"{model.name}-{name}",
                model,
                500,
                JSON,
                with_traceback(last) if local else INTERNAL,
                ID,
                path=f"/?case={name}",
                headers=ID,
            )
        for name, (status, answer, body) in RAISED.items():
            yield Case(
                f"{model.name}-{name}", model, status, JSON, body, answer, path=f"/?case={name}"
            )
        yield Case(
            f"{model.name}-abort-werkzeug",
            model,
            404,
            JSON,
            re.compile(rb'\{"error":"The requested URL was not found .*"\}'),
            path="/?case=abort-werkzeug",
        )
        yield Case(
            f"{model.name}-abort-response",
            model,
            418,
            "text/html; charset=utf-8",
            b"mine",
            {"X-Own": "abort"},
            path="/?case=abort-response",
        )
        yield Case(
            f"{model.name}-form-key",
            model,
            400,
            JSON,
            re.compile(rb'\{"error":".+"\}'),
            path="/?case=form-key",
        )
        yield Case(
            f"{model.name}-not-acceptable",
            model,
            406,
            JSON,
            error(f"none of text/html can be had; there is {OFFERED}"),
            path="/?case=dict",
            headers={"Accept": "text/html"},
        )
        yield from route_cases(model)


def route_cases(model: Model) -> Iterator[Case]:
    allow = {"Allow": "GET, HEAD, POST"}
    length = {"Content-Length": str(len(UP))}
    yield Case(f"{model.name}-get", model, 200, JSON, UP, length, "GET")
    yield Case(f"{model.name}-get-query", model, 200, JSON, UP, length, "GET", "/?case=raise")
    yield Case(f"{model.name}-head", model, 200, JSON, b"", length, "HEAD")
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        body = error(f"Method Not Allowed: {method}")
        yield Case(f"{model.name}-{method.lower()}", model, 405, JSON, body, allow, method)
    for method in ("POST", "GET", "PUT"):
        name = f"{model.name}-{method.lower()}-elsewhere"
        yield Case(name, model, 404, JSON, NOT_FOUND, {}, method, "/predict?case=dict")
    yield Case(f"{model.name}-head-elsewhere", model, 404, JSON, b"", {}, "HEAD", "/x")
    yield Case(
        f"{model.name}-too-large",
        model,
        413,
        JSON,
        # the server's own errors have a blank after the colon
        b'{"error":"the body exceeds 65536 bytes"}',
        path="/?case=dict",
        content=b"x" * (64 * 1024 + 1),
        server_level="the limit on the size of a body is the server's: gunicorn has none",
    )


def _grouped() -> tuple[Case, ...]:
    cases = [
        *file_cases(),
        *init_cases(),
        *predict_cases(),
        *content_type_cases(),
        *value_cases(),
        *fixed_cases(),
        *stream_cases(),
        *failure_cases(),
    ]
    order = {case.model.name: place for place, case in reversed(list(enumerate(cases)))}
    return tuple(sorted(cases, key=lambda case: order[case.model.name]))


CASES = _grouped()

# What cannot be served

PREDICT_NAMES = "json, payload, data, params, args, headers, request"
ONNX_SOURCE = ABOUT_INIT.replace("$parameters", "self, onnx")


def _init(parameters: str) -> str:
    return string.Template(ABOUT_INIT).substitute(parameters=parameters)


def _predict(parameters: str) -> str:
    return f"class Predictor:\n    def predict(self, {parameters}):\n        return 1\n"


REFUSALS = (
    Refusal(Model("no-predictor", {"model.pt": ""}), 4, ("no predictor.py", "model.pt")),
    Refusal(
        single("two-classes", TWO.replace("Predictor", "Another")),
        4,
        ("Other, Another", "--class"),
    ),
    Refusal(single("no-class", "class Net:\n    pass\n"), 4, ("no class with a predict", "Net")),
    Refusal(
        Model(
            "only-imported",
            {
                "predictor.py": "from base import Base\n",
                "base.py": _predict("json").replace("Predictor", "Base"),
            },
        ),
        4,
        ("no class with a predict",),
    ),
    Refusal(
        single("class-unknown", TWO, class_name="Othr"),
        4,
        ("'Othr'", "'Other'", "Other, Predictor"),
    ),
    Refusal(single("init-unknown", _init("self, onx")), 4, ("'onx'", "'onnx'", "onnx, config")),
    Refusal(
        single("init-unknown-keyword", _init("self, *, confg: int")),
        4,
        ("'confg'", "'config'", "onnx, config"),
    ),
    Refusal(single("predict-unknown", _predict("jsn")), 4, ("'jsn'", "'json'", PREDICT_NAMES)),
    Refusal(
        single("predict-unknown-keyword", _predict("json, *, heders")),
        4,
        ("'heders'", "'headers'", PREDICT_NAMES),
    ),
    Refusal(
        Model("onnx-none", {"predictor.py": ONNX_SOURCE, "weights.pt": ""}),
        4,
        ("no .onnx file", "weights.pt"),
    ),
    Refusal(
        Model("onnx-several", {"predictor.py": ONNX_SOURCE, "a.onnx": "", "b.onnx": ""}),
        4,
        ("a.onnx, b.onnx", "--model-path"),
    ),
    Refusal(
        single(
            "init-raises",
            """
class Predictor:
    def __init__(self):
        open("absent.txt")

    def predict(self):
        return 1
""",
        ),
        3,
        ("predictor.py:4", "absent.txt"),
    ),
)
