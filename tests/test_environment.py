"""Where a process finds that it runs, and what that defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from obworker.environment import default_port, with_dotenv
from obworker.errors import UsageError

GEAR = {"OPENBAYES_JOB_URL": "https://openbayes.com/jobs/1"}
PRODUCTION = {"OPENBAYES_SERVING_PRODUCTION": "1"}


def port(text: str) -> dict[str, str]:
    return {"OPENBAYES_SERVING_PORT": text}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, (25252, "default")),
        (port(""), (25252, "default")),
        (port("0"), (0, "environment OPENBAYES_SERVING_PORT")),
        (port("65535"), (65535, "environment OPENBAYES_SERVING_PORT")),
        (GEAR, (8080, "gear: OPENBAYES_JOB_URL is set")),
        (PRODUCTION, (80, "production: OPENBAYES_SERVING_PRODUCTION is set")),
        (PRODUCTION | GEAR | port("1"), (8080, "gear: OPENBAYES_JOB_URL is set")),
        (dict.fromkeys([*PRODUCTION, *GEAR], ""), (25252, "default")),
    ],
)
def test_the_port_is_that_of_the_place(environ: dict[str, str], found: tuple[int, str]) -> None:
    assert default_port(environ) == found


@pytest.mark.parametrize("text", ["65536", "-1", "http", "1.5", " ", "٣", "9" * 5000])
def test_what_is_no_port_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r" is not a port from 0 to 65535$"):
        default_port(port(text))


def test_a_dotenv_adds_what_is_not_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=file\nB=file\nWITHOUT_A_VALUE\n")
    assert with_dotenv({"B": "set"}, tmp_path) == {"A": "file", "B": "set"}


def test_without_one_nothing_is_added(tmp_path: Path) -> None:
    assert with_dotenv({"B": "set"}, tmp_path) == with_dotenv({"B": "set"}, None) == {"B": "set"}


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"A=\xff\n", "cannot be read: "),
        (b"A=a\0b\n", "a NUL byte cannot be in an environment"),
        (b"'A=B'=c\n", "'A=B' cannot be the name of an environment"),
    ],
)
def test_one_that_is_wrong_is_named(tmp_path: Path, content: bytes, wrong: str) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(UsageError, match=rf"^{tmp_path}/\.env: {wrong}"):
        with_dotenv({}, tmp_path)
