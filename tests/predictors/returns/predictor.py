"""Returns, or raises, what the query parameter `case` names."""

import collections
import enum
import io
import threading

import flask
import numpy as np
import werkzeug
import werkzeug.exceptions as exceptions

Box = collections.namedtuple("Box", "x y")  # noqa: PYI024  # as many predictors have it
PNG = b"\x89PNG\r\n\x1a\n\x00\x00"
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"


class Level(enum.IntEnum):
    HIGH = 3


class Thing:
    pass


def wsgi(environ, start_response):
    start_response("207 Multi-Status", [("Content-Type", "text/x-own"), ("X-Own", "yes")])
    return [b"own ", environ["REQUEST_METHOD"].encode()]


class Callable:
    def __call__(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/x-object")])
        return [b"an object"]


class Countdown:
    def __init__(self, start):
        self.left = start

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left


def no_content():
    response = flask.Response(status=204)
    del response.headers["Content-Type"]  # of nothing: RFC 9110 8.3
    return response


def mounted():
    app = flask.Flask("mounted")

    @app.post("/")
    def view():
        return {"flask": flask.request.args["case"]}

    return app


def raising(error):
    raise error


def raising_generator(error):
    raise error
    yield


VALUES = {
    # anything JSON can hold
    "dict": lambda: {"a": 1, "b": [True, None]},
    "list": lambda: [1, 2, 3],
    "tuple": lambda: ([(1, 2)], ["cat"]),
    "empty-list": list,
    "namedtuple": lambda: Box(1, 2.5),
    "status-tuple": lambda: ("x", 201),
    "defaultdict": lambda: collections.defaultdict(int, a=1),
    "int": lambda: 7,
    "big": lambda: 2**64 - 1,
    "huge": lambda: {"猫": 2**64},
    "float": lambda: 0.5,
    "true": lambda: True,
    "false": lambda: False,
    "none": lambda: None,
    "enum": lambda: {"level": Level.HIGH},
    "keys": lambda: {1: "int", 2.5: "float", None: "none", False: "bool"},
    "utf8": lambda: {"标签": "猫 🐈 é"},
    "bytes-inside": lambda: {"image": PNG, "all": [b"", b"\xff"]},
    # numpy
    "float32": lambda: np.float32(0.5),
    "float64": lambda: np.float64(0.25),
    "int64": lambda: np.int64(-3),
    "uint8": lambda: np.uint8(255),
    "bool_": lambda: np.bool_(True),
    "array": lambda: np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": lambda: np.arange(6).reshape(2, 3).T,
    "strided": lambda: np.arange(6, dtype=np.uint8)[::2],
    "half": lambda: np.array([0.5, 1.5], dtype=np.float16),
    "bools": lambda: np.array([True, False]),
    "empty-array": lambda: np.zeros((0,)),
    "zero-dimensional": lambda: np.array(4),
    "texts": lambda: np.array(["cat", "狗"]),
    "objects": lambda: np.array([1, "a", None], dtype=object),
    "in-dict": lambda: {"scores": np.array([0.5]), "best": np.int32(0), "pair": (np.float32(1),)},
    "numpy-keys": lambda: {np.int64(3): 1, np.str_("a"): 2},
    # text and bytes
    "str": lambda: "class 1 猫",
    "empty-str": str,
    "numpy-str": lambda: np.str_("cat"),
    "bytes": lambda: b"\x80\x04pickle",
    "empty-bytes": bytes,
    "png": lambda: PNG,
    "jpeg": lambda: JPEG,
    "almost-png": lambda: PNG[1:],
    # responses
    "flask": lambda: flask.Response(b"class 1", mimetype="text/plain"),
    "flask-status": lambda: flask.Response("made", 201, {"X-Own": "yes"}, content_type="a/b"),
    "flask-empty": no_content,
    "flask-generator": lambda: flask.Response((part for part in ("a", "b")), mimetype="a/b"),
    "jsonify": lambda: flask.jsonify(a=1),
    "make-response": lambda: flask.make_response(({"a": 2}, 202)),
    "redirect": lambda: flask.redirect("/elsewhere"),
    "send-file": lambda: flask.send_file(io.BytesIO(PNG), "image/png"),
    "werkzeug": lambda: werkzeug.Response("made", 202, {"X-Own": "w"}),
    "wsgi": lambda: wsgi,
    "wsgi-object": Callable,
    "wsgi-app": mounted,
    "exception-returned": lambda: exceptions.Gone(response=werkzeug.Response("gone", 410)),
    # streams
    "stream-str": lambda: (part for part in ("a", "", "猫", "b\nc")),
    "stream-bytes": lambda: (part for part in (b"\x00a", b"", b"b")),
    "stream-png": lambda: iter([PNG, b"rest"]),
    "stream-dict": lambda: ({"n": n, "猫": np.int64(n)} for n in range(2)),
    "stream-mixed": lambda: iter([{"a": 1}, "text", b"bytes", None, [1], 2]),
    "stream-map": lambda: map(str, range(3)),
    "stream-iterator": lambda: Countdown(3),
    "stream-empty": lambda: iter(()),
    # something else
    "set": lambda: {1},
    "object": Thing,
    "set-inside": lambda: {"deep": [{1}]},
    "class": lambda: Thing,
    "complex": lambda: np.array([1j]),
    # errors
    "raise": lambda: raising(ValueError("secret 猫")),
    "raise-generator": lambda: raising_generator(KeyError("secret")),
    "abort-418": lambda: flask.abort(418),
    "abort-413": lambda: flask.abort(413),
    "abort-403": lambda: flask.abort(403, "no entry"),
    "abort-405": lambda: raising(exceptions.MethodNotAllowed(valid_methods=["PUT"])),
    "abort-503": lambda: raising(exceptions.ServiceUnavailable("busy", retry_after=3)),
    "abort-werkzeug": lambda: exceptions.abort(404),
    "abort-response": lambda: flask.abort(flask.Response("mine", 418, {"X-Own": "abort"})),
    "abort-generator": lambda: raising_generator(exceptions.Conflict("twice")),
    "form-key": lambda: flask.request.form["absent"],
}


class Predictor:
    def __init__(self):
        self.released = threading.Event()

    def predict(self, request, params):
        case = params["case"]
        if case in VALUES:
            return VALUES[case]()
        return getattr(self, case)()

    def wait(self):
        yield "first"
        self.released.wait(20)
        yield "second"

    def release(self):
        self.released.set()
        return self.released.is_set()
