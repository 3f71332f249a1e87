from __future__ import annotations

from contextlib import suppress

import msgpack  # type: ignore[import-untyped]
import pytest

from obworker.errors import BadRequest
from obworker.predictor.payload import parse, parse_or_bytes

PACKED = msgpack.packb({"a": [1, b"x", "é"]}, use_bin_type=True)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF8"',
        "application/json ; profile=x",
        "application/vnd.api+json",
        "application/problem+json; charset=us-ascii",
    ],
)
def test_json_is_recognised(content_type: str) -> None:
    assert parse(content_type, b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/msgpack",
        "application/x-msgpack",
        "application/vnd.msgpack",
        "application/vnd.messagepack",
        "application/MsgPack; charset=binary",
        "application/vnd.model+msgpack",
    ],
)
def test_messagepack_is_recognised(content_type: str) -> None:
    assert parse(content_type, PACKED) == {"a": [1, b"x", "é"]}


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "gbk", "gb18030", "utf-32-le"])
def test_json_in_another_charset_is_decoded(charset: str) -> None:
    body = '{"名": "图"}'.encode(charset)
    assert parse(f"application/json; charset={charset}", body) == {"名": "图"}


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"18446744073709551616", 2**64),
        (b"-9223372036854775809", -(2**63) - 1),
        (b'{"id":[123456789012345678901234567890 ]}', {"id": [123456789012345678901234567890]}),
        (b'{"id":\n-123456789012345678901234567890}', {"id": -123456789012345678901234567890}),
        (b"18446744073709551615", 2**64 - 1),
        (b"[0.00012345678901234567]", [0.00012345678901234567]),
        (b"12345678901234567890.5", 12345678901234567890.5),
        (b"12345678901234567890e1", 12345678901234567890e1),
        (b'"12345678901234567890"', "12345678901234567890"),
        (b"\xef\xbb\xbf[1]", [1]),
    ],
)
def test_numbers_keep_their_value(body: bytes, value: object) -> None:
    parsed = parse("application/json", body)
    assert parsed == value
    assert type(parsed) is type(value)


def test_messagepack_keys_need_not_be_strings() -> None:
    assert parse("application/msgpack", msgpack.packb({1: 2})) == {1: 2}


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("", b"{}", "no Content-Type"),
        ("text/plain", b"{}", "Content-Type text/plain is neither"),
        ("application/x-www-form-urlencoded", b"a=1", "x-www-form-urlencoded is neither"),
        ("application/json", b"", "the body is empty; it should be JSON"),
        ("application/msgpack", b"", "the body is empty; it should be MessagePack"),
        ("application/json", b"{", "not valid JSON"),
        ("application/json", b"NaN", "not valid JSON"),
        ("application/json", b"1e999", "not valid JSON"),
        ("application/json", b'"\\ud800"', "not valid JSON"),
        ("application/json", b"\xff", "not valid JSON"),
        ("application/json", b"[" * 100_000, "not valid JSON"),
        ("application/json", b"9" * 5000, "not valid JSON"),
        ("application/json; charset=latin-9x", b"{}", "unknown charset 'latin-9x'"),
        ("application/json; charset=idna", b"{}", "unknown charset 'idna'"),
        ("application/json; charset=hex", b"{}", "unknown charset 'hex'"),
        ("application/json; charset=a\0b", b"{}", "unknown charset"),
        ("application/json; charset=ascii", b'"\xe9"', "not ascii text"),
        ("application/msgpack", b"\x01\x02", "not valid MessagePack"),
        ("application/msgpack", b"\xa1\xff", "not valid MessagePack"),
        ("application/msgpack", b"\x92\x01", "not valid MessagePack"),
        ("application/msgpack", b"\x81\x90\x01", "not valid MessagePack: unhashable"),
        ("application/msgpack", b"\x91" * 100_000, "nested too deeply"),
        ("application/msgpack", b"\x91\xc1", "not valid MessagePack: a byte begins no value"),
        ("application/msgpack", b"\xdf\xff\xff\xff\xff", "not valid MessagePack"),
    ],
)
def test_what_cannot_be_parsed(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse(content_type, body)
    assert parse_or_bytes(content_type, body) == body


def test_payload_is_parsed_where_it_can_be() -> None:
    assert parse_or_bytes("application/json", b"[1]") == [1]


def test_a_deep_body_with_a_big_integer_is_parsed_or_refused() -> None:
    body = b"[" * 1000 + b"123456789012345678901234567890" + b"]" * 1000
    value: object = 123456789012345678901234567890
    with suppress(BadRequest):  # how deep the standard library goes depends on the Python
        value = parse("application/json", body)
    while isinstance(value, list):
        (value,) = value
    assert value == 123456789012345678901234567890
