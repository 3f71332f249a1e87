"""The Fetch standard, 3.2 (CORS protocol), as a server has to follow it."""

from __future__ import annotations

from typing import Any

import pytest

from obworker.http.cors import Cors
from obworker.settings import Settings

HERE, THERE = "https://app.example", "http://localhost:3000"
EXPOSED = ("Access-Control-Expose-Headers", "X-Request-ID, Retry-After")
VARY = ("Vary", "Origin")


def cors(origins: str) -> Cors:
    made = Cors.of(Settings(cors_origin=origins))
    assert made is not None
    return made


def preflight(**environ: Any) -> dict[str, Any]:
    asks = {
        "REQUEST_METHOD": "OPTIONS",
        "HTTP_ORIGIN": HERE,
        "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST",
    }
    return {name: value for name, value in (asks | environ).items() if value is not None}


def test_without_origins_there_is_none() -> None:
    assert Cors.of(Settings()) is None


@pytest.mark.parametrize("origin", [None, HERE, "null"])
def test_any_origin_is_allowed_by_a_star_for_which_caches_need_no_warning(
    origin: str | None,
) -> None:
    environ = {} if origin is None else {"HTTP_ORIGIN": origin}
    assert cors("*").fields(environ) == [("Access-Control-Allow-Origin", "*"), EXPOSED]


@pytest.mark.parametrize("origins", [HERE, f"{THERE},{HERE}", "HTTPS://App.Example"])
def test_an_origin_of_the_list_is_allowed_by_name(origins: str) -> None:
    made = Cors(origins)
    allowed = ("Access-Control-Allow-Origin", HERE)
    assert made.fields({"HTTP_ORIGIN": HERE}) == [allowed, EXPOSED, VARY]


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "https://app.example.evil",
        "https://evil-app.example",
        "http://app.example",
        "https://app.example:8443",
        "https://APP.example",
        f"{HERE},{THERE}",
        "",
    ],
)
def test_any_other_is_not(origin: str | None) -> None:
    environ = {} if origin is None else {"HTTP_ORIGIN": origin}
    assert cors(f"{HERE},{THERE}").fields(environ) == [VARY]


def test_a_preflight_is_told_what_may_be_sent() -> None:
    assert cors(HERE).preflight(preflight()) == [
        ("Access-Control-Allow-Methods", "GET, HEAD, POST"),
        ("Access-Control-Max-Age", "7200"),
    ]


def test_any_header_may_be_sent() -> None:
    asked = "authorization,content-type,x-my-own"
    environ = preflight(HTTP_ACCESS_CONTROL_REQUEST_HEADERS=asked)
    answer = cors(HERE).preflight(environ)
    assert answer is not None
    assert ("Access-Control-Allow-Headers", asked) in answer


@pytest.mark.parametrize(
    "changes",
    [
        {"REQUEST_METHOD": "POST"},
        {"HTTP_ORIGIN": None},
        {"HTTP_ACCESS_CONTROL_REQUEST_METHOD": None},
    ],
)
def test_other_requests_are_none(changes: dict[str, Any]) -> None:
    assert cors(HERE).preflight(preflight(**changes)) is None
