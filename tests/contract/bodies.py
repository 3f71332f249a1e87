"""What json and payload are, by the Content-Type of a request."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from contract.arguments import CONTENT, FORM, MULTIPART, PARSED
from contract.rows import JSON, MSGPACK, Case, error, single, to_json, to_msgpack

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


def body_cases() -> Iterator[Case]:
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
            # where a message ends with a space, the parser's own words follow
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
