from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import math
import uuid
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
from werkzeug.datastructures import MultiDict

from obworker.predictor.encoding import ReplyError, to_json, to_msgpack

Point = collections.namedtuple("Point", "x y")  # noqa: PYI024  # users write it like this


class Floaty(float):
    pass


class Listy(list[Any]):
    pass


class Worded(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "in other words"


class Color(enum.Enum):
    RED = "red"


class Shade(enum.Enum):
    GREY = (128, b"grey")
    BLACK = memoryview(b"black")


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Box:
    label: str
    score: Any


@dataclasses.dataclass
class Output(collections.OrderedDict[str, Any]):
    """Holds what it was given, as those of Hugging Face's transformers do."""

    logits: Any = None
    loss: Any = None
    _hidden: int = 1

    def __post_init__(self) -> None:
        self["logits"] = self.logits


@dataclasses.dataclass
class Secretive:
    _seen: int

    def __post_init__(self) -> None:
        self.cache = object()


BIG = 2**70
A_DAY = datetime.date(2026, 1, 2)
AN_ID = uuid.UUID(int=1)
MOMENTS = np.array(["2026-01-02T03:04:05.123456789", "2026-01-02"], dtype="datetime64[ns]")
SAME_MOMENTS = ["2026-01-02T03:04:05.123456", "2026-01-02T00:00:00"]
A_RECORD = np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f4")])[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, True, None, "图"]}, '{"a":[1,2.5,true,null,"图"]}'),
        ((1, (2, 3)), "[1,[2,3]]"),
        (Point(1, b"x"), '[1,"eA=="]'),
        (collections.OrderedDict(a=1), '{"a":1}'),
        (collections.defaultdict(list, a=[1]), '{"a":[1]}'),
        (Listy([1]), "[1]"),
        ([Floaty(1.5)], "[1.5]"),
        ({1: 1, None: 2, False: 3, 1.5: 4}, '{"1":1,"null":2,"false":3,"1.5":4}'),
        ({np.int64(7): 1}, '{"7":1}'),
        ([b"\x00\xff", bytearray(b"a"), memoryview(b"b")], '["AP8=","YQ==","Yg=="]'),
        (np.array([[1, 3], [2, 4]]).T, "[[1,2],[3,4]]"),
        (np.array([1.5, 2], dtype=np.float16), "[1.5,2.0]"),
        (np.float32(1.5), "1.5"),
        (np.float64(1.5), "1.5"),
        (np.bool_(True), "true"),
        (np.array(3), "3"),
        (np.array(["a", "b"]), '["a","b"]'),
        (np.array([b"a"]), '["YQ=="]'),
        (np.array([{"a": np.int8(1)}], dtype=object), '[{"a":1}]'),
        ([math.nan, math.inf, np.float32("nan")], "[null,null,null]"),
        (Box("cat", np.float64(0.5)), '{"label":"cat","score":0.5}'),
        ([A_DAY, AN_ID, Color.RED, Level.LOW], f'["2026-01-02","{AN_ID}","red",1]'),
        (MultiDict([("a", "1"), ("a", "2")]), '{"a":"1"}'),
        ({Worded("k"): Worded("v")}, '{"k":"v"}'),
        ([Output([1]), Secretive(2)], '[{"logits":[1]},{"_seen":2}]'),
        ([Output([1]), Secretive(2), BIG], f'[{{"logits":[1]}},{{"_seen":2}},{BIG}]'),
        ([memoryview(b"axbx")[::2]], '["YWI="]'),
        (MOMENTS, '["{}","{}"]'.format(*SAME_MOMENTS)),
        (MOMENTS.repeat(2)[::2], '["{}","{}"]'.format(*SAME_MOMENTS)),
        (A_RECORD, "[1,2.5]"),
        ([Shade.GREY, Shade.BLACK], '[[128,"Z3JleQ=="],"YmxhY2s="]'),
        # what orjson refuses
        (BIG, str(BIG)),
        ({"n": [-BIG, math.nan, b"x", "图", True]}, f'{{"n":[-{BIG},null,"eA==","图",true]}}'),
        ([BIG, np.array([1, 2]), Point(1, 2), Floaty(2.5)], f"[{BIG},[1,2],[1,2],2.5]"),
        (
            [BIG, Box("cat", A_DAY), AN_ID],
            f'[{BIG},{{"label":"cat","score":"2026-01-02"}},"{AN_ID}"]',
        ),
        (
            {Color.RED: BIG, None: 1, 2: 3, A_DAY: 4},
            f'{{"red":{BIG},"null":1,"2":3,"2026-01-02":4}}',
        ),
        (["\ud800图"], '["\\ud800图"]'),
    ],
)
def test_json(value: object, text: str) -> None:
    assert to_json(value).decode() == text


def test_json_nests_deeper_than_orjson_goes() -> None:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    assert to_json(value) == b"[" * 301 + b"]" * 301


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ({"a": [1, 2.5, True, None, "图"]}, {"a": [1, 2.5, True, None, "图"]}),
        ({1: b"\x00\xff"}, {1: b"\x00\xff"}),
        ([bytearray(b"a"), memoryview(b"b")], [b"a", b"b"]),
        (Point(1, 2), [1, 2]),
        (np.arange(3), [0, 1, 2]),
        ([np.float32(1.5), np.int8(1), np.bool_(False)], [1.5, 1, False]),
        (Box("cat", np.float64(0.5)), {"label": "cat", "score": 0.5}),
        ([A_DAY, AN_ID, Color.RED, Level.LOW], ["2026-01-02", str(AN_ID), "red", 1]),
        (MultiDict([("a", "1"), ("a", "2")]), {"a": "1"}),
        ([Output([1]), Secretive(2)], [{"logits": [1]}, {"_seen": 2}]),
        (MOMENTS, SAME_MOMENTS),
        ([*MOMENTS, np.datetime64("NaT", "ns")], [*SAME_MOMENTS, None]),
        (A_RECORD, [1, 2.5]),
        ([Shade.GREY, Shade.BLACK], [[128, b"grey"], b"black"]),
    ],
)
def test_messagepack(value: object, back: object) -> None:
    assert msgpack.unpackb(to_msgpack(value), strict_map_key=False) == back


def holding_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "json_error", "msgpack_error"),
    [
        ({1, 2}, "a set cannot be sent; allowed are dict, list", "a set cannot be sent"),
        ({"a": [object()]}, "a object cannot be sent", "a object cannot be sent"),
        (1j, "a complex cannot be sent", "a complex cannot be sent"),
        (np.complex64(1), "a complex cannot be sent", "a complex cannot be sent"),
        (np.longdouble(1), "numpy.longdouble cannot be sent", "numpy.longdouble cannot be sent"),
        (int, "a type cannot be sent", "a type cannot be sent"),
        (holding_itself(), "nested too deeply, or holds itself", "does not fit in MessagePack"),
    ],
)
def test_what_cannot_be_sent_is_named(value: object, json_error: str, msgpack_error: str) -> None:
    with pytest.raises(ReplyError, match=json_error):
        to_json(value)
    with pytest.raises(ReplyError, match=msgpack_error):
        to_msgpack(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({(1, 2): 3}, "a tuple cannot be a key in JSON"),
        ({b"x": 3}, "a bytes cannot be a key in JSON"),
        ({frozenset(): 3}, "a frozenset cannot be sent"),
        ([10**5000], "Exceeds the limit"),
    ],
)
def test_what_json_has_no_place_for(value: object, message: str) -> None:
    with pytest.raises(ReplyError, match=message):
        to_json(value)


@pytest.mark.parametrize("value", [BIG, "\ud800", [memoryview(b"axbx")[::2]]])
def test_what_messagepack_has_no_place_for(value: object) -> None:
    with pytest.raises(ReplyError, match="does not fit in MessagePack"):
        to_msgpack(value)
