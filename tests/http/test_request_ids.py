from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from obworker.http.request_ids import RequestIds
from obworker.request_context import given_id

GIVEN, PLATFORM = "HTTP_X_REQUEST_ID", "HTTP_X_OPENBAYES_SERVING_REQUEST_ID"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({GIVEN: "abc-1"}, "abc-1"),
        ({GIVEN: "x" * 128}, "x" * 128),
        ({GIVEN: '"[]\\'}, '"[]\\'),
        ({GIVEN: "a", PLATFORM: "7"}, "a"),
        ({PLATFORM: "7"}, "7"),
        ({GIVEN: "a b", PLATFORM: "7"}, "7"),
    ],
)
def test_what_the_client_calls_it(environ: dict[str, Any], expected: str) -> None:
    assert RequestIds().assign(environ) == expected
    assert environ[GIVEN] == expected


@pytest.mark.parametrize(
    "given", [None, "", "a b", "a\tb", "x" * 129, "\x1b[31m", "caf\xe9", "a\nb"]
)
def test_what_cannot_stand_in_a_line_is_not_used(given: str | None) -> None:
    environ: dict[str, Any] = {} if given is None else {GIVEN: given}
    made = RequestIds().assign(environ)
    assert made
    assert given_id({GIVEN: made}) == made
    assert environ[GIVEN] == made, "predict sees what the log has"


def test_the_platforms_id_is_left_alone() -> None:
    environ = {PLATFORM: "not an id"}
    RequestIds().assign(environ)
    assert environ[PLATFORM] == "not an id"


def test_each_request_has_another() -> None:
    ids = RequestIds()
    assert len({ids.assign({}) for _ in range(10_000)}) == 10_000


def test_each_process_has_others() -> None:
    code = "from obworker.http.request_ids import RequestIds; print(RequestIds().assign({}))"
    made = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        for _ in range(3)
    }
    assert len(made) == 3
