from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from obworker.errors import UsageError
from obworker.http.api_keys import MOST_KEYS, SHORT, ApiKeys
from obworker.settings import Settings

KEY, OTHER = "sk-0123456789abcdef", "AbC/+=._~-0123456789"

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        path = tmp_path / "keys"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("environ", "accepted"),
    [
        ({"HTTP_AUTHORIZATION": f"Bearer {KEY}"}, True),
        ({"HTTP_AUTHORIZATION": f"bearer {OTHER}"}, True),  # RFC 9110 11.1: in any case
        ({"HTTP_AUTHORIZATION": f"BEARER   {KEY}"}, True),  # RFC 9110 11.4: 1*SP
        ({"HTTP_X_API_KEY": KEY}, True),
        ({"HTTP_AUTHORIZATION": "Basic dXNlcjpwYXNz", "HTTP_X_API_KEY": KEY}, True),
        ({"HTTP_AUTHORIZATION": "Bearer wrong", "HTTP_X_API_KEY": KEY}, True),
        ({}, False),
        ({"HTTP_AUTHORIZATION": ""}, False),
        ({"HTTP_X_API_KEY": ""}, False),
        ({"HTTP_AUTHORIZATION": "Bearer"}, False),
        ({"HTTP_AUTHORIZATION": "Bearer "}, False),
        ({"HTTP_AUTHORIZATION": KEY}, False),
        ({"HTTP_AUTHORIZATION": f"Bearer{KEY}"}, False),
        ({"HTTP_AUTHORIZATION": f"Token {KEY}"}, False),
        ({"HTTP_AUTHORIZATION": f"Bearer {KEY[:-1]}"}, False),
        ({"HTTP_AUTHORIZATION": f"Bearer {KEY}x"}, False),
        ({"HTTP_AUTHORIZATION": f"Bearer {KEY.upper()}"}, False),
        ({"HTTP_AUTHORIZATION": f"Bearer {KEY},Bearer {KEY}"}, False),  # sent twice
        ({"HTTP_X_API_KEY": f"{KEY},{KEY}"}, False),
        ({"HTTP_X_API_KEY": "\xff" * 20}, False),
        ({"HTTP_X_API_KEY": "# a comment"}, False),
        ({"QUERY_STRING": f"api_key={KEY}"}, False),
    ],
)
def test_a_request_must_have_a_key(
    write: Write, environ: dict[str, str], *, accepted: bool
) -> None:
    keys = ApiKeys.load(write(f"{KEY}\n{OTHER}\n"))
    assert keys.accepts(environ) is accepted


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"{KEY}\r\n",
        f"\n  {KEY}  \n\n",
        f"# for the app\n{KEY}\n # and for others\n{OTHER}\n",
        f"\ufeff{KEY}\n",
        f"{KEY}\n" * MOST_KEYS,
    ],
    ids=lambda text: repr(text[:60]),
)
def test_a_file_has_a_key_in_each_line(write: Write, text: str) -> None:
    assert ApiKeys.load(write(text)).accepts({"HTTP_X_API_KEY": KEY})


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", " has no key in it"),
        ("# none\n\n", " has no key in it"),
        (f"{KEY}\n{KEY} # mine\n", ", line 2: a key is printable ASCII without white space"),
        ("pass\tword-0123456789", ", line 1: a key is printable ASCII without white space"),
        ("schlüssel-0123456789", ", line 1: a key is printable ASCII without white space"),
        ("\x00" * 20, ", line 1: a key is printable ASCII without white space"),
        (f"{KEY}\n" * (MOST_KEYS + 1), f" has {MOST_KEYS + 1} keys, more than {MOST_KEYS}"),
    ],
)
def test_a_file_that_is_wrong_is_told_in_one_line_without_a_key(
    write: Write, text: str, wrong: str
) -> None:
    path = write(text)
    with pytest.raises(UsageError) as told:
        ApiKeys.load(path)
    assert str(told.value) == f"--api-key-file: {path}{wrong}"


def test_so_is_one_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a dir")):
        with pytest.raises(UsageError, match=f"^--api-key-file: cannot read {path}: {why}"):
            ApiKeys.load(str(path))


def test_a_key_that_can_be_guessed_is_warned_of(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(f"{'k' * SHORT}\nsecret\n")
    assert ApiKeys.load(path).accepts({"HTTP_X_API_KEY": "secret"})
    (told,) = caplog.records
    message = f"--api-key-file: {path}, line 2: a key of 6 characters can be guessed"
    assert told.getMessage() == message


def test_a_file_that_everybody_can_read_is_warned_of(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(KEY)
    Path(path).chmod(0o644)
    ApiKeys.load(path)
    (told,) = caplog.records
    assert told.getMessage() == (
        f"--api-key-file: everybody can read {path}; chmod o-r takes that away"
    )


def test_a_key_is_not_kept(write: Write) -> None:
    keys = ApiKeys.load(write(KEY))
    assert KEY.encode() not in pickle.dumps(keys)
    assert KEY not in repr(keys) + repr(keys.pack())


def test_other_processes_have_the_same_keys(write: Write) -> None:
    packed = ApiKeys.load(write(KEY)).pack()
    keys = ApiKeys.unpack(packed)
    assert keys is not None
    assert keys.accepts({"HTTP_X_API_KEY": KEY})
    assert not keys.accepts({"HTTP_X_API_KEY": OTHER})
    assert ApiKeys.unpack([]) is None


def test_without_a_file_there_are_none() -> None:
    assert ApiKeys.of(Settings()) is None
