"""What predict may return, and how that is sent, by the Accept of a request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness import ROOT

from contract.rows import (
    BINARY,
    EVENTS,
    JSON,
    LINES,
    MSGPACK,
    OFFERED,
    TEXT,
    Case,
    Model,
    error,
    to_json,
    to_msgpack,
)

PREDICTORS = ROOT / "tests" / "predictors"


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
