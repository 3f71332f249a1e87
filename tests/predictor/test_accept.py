from __future__ import annotations

import pytest

from obworker.errors import NotAcceptable
from obworker.predictor.accept import asks_for_events, choose


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        (" , ", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/msgpack", "application/msgpack"),
        ("application/x-msgpack", "application/x-msgpack"),
        ("application/vnd.msgpack", "application/vnd.msgpack"),
        ("application/vnd.messagepack, text/html", "application/vnd.messagepack"),
        ("application/x-msgpack, application/msgpack", "application/msgpack"),
        ("application/json, application/msgpack", "application/json"),
        ("application/json;q=0.5, application/msgpack", "application/msgpack"),
        ("application/json, application/msgpack;q=7", "application/json"),
        ("application/json; q=0.5, application/msgpack; q=0.4", "application/json"),
        ("*/*, application/json;q=0", "application/msgpack"),
        ("*/*;q=0.1, application/x-msgpack", "application/x-msgpack"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("text/event-stream, */*", "application/json"),
        ("application/json;q=7", "application/json"),
        ("application/json;q=nan, application/msgpack", "application/msgpack"),
    ],
)
def test_the_best_offer_is_chosen(accept: str, chosen: str) -> None:
    assert choose(accept) == chosen


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/json;q=0",
        "*/*;q=0",
        "image/*",
        "application/json;q=x",
        ", text/html",
    ],
)
def test_nothing_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json, application/msgpack"):
        choose(accept)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/event-stream", True),
        ("TEXT/Event-Stream;charset=utf-8", True),
        ("application/json, text/event-stream;q=0.5", True),
        ("text/event-stream;q=0", False),
        ("*/*", False),
        ("text/*", False),
        ("", False),
    ],
)
def test_events_are_sent_only_where_they_are_named(accept: str, expected: bool) -> None:
    assert asks_for_events(accept) is expected
