"""The command line: help, version, and settings as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import pytest
from harness import command

from obworker import __version__
from obworker.settings import OPTIONS

UNSET = ("OPENBAYES_JOB_URL", "OPENBAYES_SERVING_PRODUCTION", "OPENBAYES_SERVING_PORT")
# as many different values as there are kinds
GIVEN = {
    "class": 'quo"te\\d and\na line',
    "gpus": "1,0",
    "workers": "3",
    "timeout": "0",
    "graceful_timeout": "1.5",
    "keep_alive": "1234567",
    "limit_request_body": "1GiB",
    "limit_request_line": "9000",
    "log_level": "debug",
    "port": "81",
}


def obworker(
    *argv: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in UNSET and not name.startswith("OBWORKER_")
    }
    return subprocess.run(
        command(*argv),
        env={**clean, **(environ or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def settings_in(output: str) -> dict[str, tuple[str, str]]:
    """Return what --print-config says: value and source of every key."""
    found = {}
    for line in output.splitlines():
        match = re.fullmatch(r"(?:# )?(\w+) = (.*?) +# (.+)", line)
        assert match, line
        found[match[1]] = (match[2], match[3])
    return found


def print_config(*argv: str, environ: Mapping[str, str] | None = None) -> str:
    ended = obworker("--print-config", *argv, environ=environ)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_the_version_is_shown() -> None:
    ended = obworker("--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"obworker {__version__}\n", "")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_has_every_option_once_in_its_group(flag: str) -> None:
    ended = obworker(flag)
    assert (ended.returncode, ended.stderr) == (0, "")
    group = ""
    groups: dict[str, str] = {}
    for line in ended.stdout.splitlines():
        if heading := re.fullmatch(r"(\w+):", line):
            group = heading[1]
        elif option := re.match(r"  (?:-\w, )?(--[\w-]+)", line):
            assert option[1] not in groups
            groups[option[1]] = group
    expected = {
        option.flags[-1]: option.group for option in OPTIONS if option.flags[-1].startswith("-")
    }
    assert {name: groups.get(name) for name in expected} == expected
    assert set(groups) - set(expected) == {"--config", "--print-config", "--version", "--help"}


def test_the_help_names_short_forms_defaults_and_exit_codes() -> None:
    text = " ".join(obworker("--help").stdout.split())
    for option in OPTIONS:
        if option.flags[-1].startswith("-"):
            assert ", ".join(option.flags) in text
            assert f"[default: {option.default}]" in text
    assert "0: stopped. 2: usage. 3: no worker could start. 4: predictor.py" in text


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("argv", [(), ("status",), ("prepack",)])
def test_the_help_fits_the_terminal(argv: tuple[str, ...], columns: int) -> None:
    shown = obworker(*argv, "--help", environ={"COLUMNS": str(columns)}).stdout
    assert max(len(line) for line in shown.splitlines()) <= min(columns, 100)


def test_every_setting_is_printed_with_its_default() -> None:
    printed = settings_in(print_config())
    assert set(printed) == {option.key for option in OPTIONS}
    for option in OPTIONS:
        value, source = printed[option.key]
        assert source.startswith("default"), option.key
        if value:
            assert re.fullmatch(r'"[^"]*"|\d+(\.\d+)?|true|false', value)
    assert printed["port"] == ("25252", "default")
    assert printed["host"] == ('"0.0.0.0"', "default")
    assert printed["workers"] == ("", "default: --workers-per-gpu for each GPU, else 1")


def test_every_setting_is_printed_with_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("workers = 2\nthreads = 2\ntimeout = 2\n")
    environ = {"OBWORKER_WORKERS": "3", "OBWORKER_THREADS": "3", "OBWORKER_CONFIG": str(file)}
    printed = settings_in(print_config("--workers", "4", environ=environ))
    assert printed["workers"] == ("4", "command line")
    assert printed["threads"] == ("3", "environment OBWORKER_THREADS")
    assert printed["timeout"] == ("2", f"file {file}")
    assert printed["backlog"] == ("2048", "default")


@pytest.mark.parametrize(
    ("environ", "port", "source"),
    [
        ({}, "25252", "default"),
        ({"OPENBAYES_SERVING_PORT": "7"}, "7", "environment OPENBAYES_SERVING_PORT"),
        (
            {"OPENBAYES_SERVING_PRODUCTION": "1", "OPENBAYES_SERVING_PORT": "7"},
            "80",
            "production: OPENBAYES_SERVING_PRODUCTION is set",
        ),
        (
            {"OPENBAYES_JOB_URL": "x", "OPENBAYES_SERVING_PRODUCTION": "1"},
            "8080",
            "gear: OPENBAYES_JOB_URL is set",
        ),
        ({"OPENBAYES_JOB_URL": "x", "OBWORKER_PORT": "9"}, "9", "environment OBWORKER_PORT"),
    ],
)
def test_the_port_follows_from_where_it_runs(
    environ: dict[str, str], port: str, source: str
) -> None:
    assert settings_in(print_config(environ=environ))["port"] == (port, source)


def values_in(output: str) -> dict[str, str]:
    return {key: value for key, (value, _) in settings_in(output).items()}


def test_what_is_printed_is_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    options = [
        argument for key, text in GIVEN.items() for argument in ("--" + key.replace("_", "-"), text)
    ]
    printed = print_config(*options, "--no-access-log")
    (tmp_path / "c.toml").write_text(printed)
    again = print_config("--config", str(tmp_path / "c.toml"))
    assert values_in(again) == values_in(printed)
    assert values_in(printed)["keep_alive"] == "1234567"
    assert values_in(printed)["access_log"] == "false"
    assert {source for _, source in settings_in(again).values() if "file" not in source} <= {
        source for _, source in settings_in(printed).values() if source.startswith("default: ")
    }


@pytest.mark.parametrize(
    "argv", [("--bind", "127.0.0.1:81", "-b", "unix:/a"), ("--bind=127.0.0.1:81,unix:/a",)]
)
def test_addresses_are_printed_so_that_they_can_be_read_back(
    argv: tuple[str, ...], tmp_path: Path
) -> None:
    printed = print_config(*argv)
    (tmp_path / "c.toml").write_text(printed)
    again = print_config("--config", str(tmp_path / "c.toml"))
    assert values_in(again)["bind"] == '"127.0.0.1:81,unix:/a"'


def test_a_default_that_is_read_back_does_not_stick_to_the_place(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(print_config())
    assert obworker("--print-config", "-c", str(tmp_path / "c.toml")).returncode == 0


def test_the_models_dotenv_sets_options_where_the_environment_does_not(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OBWORKER_WORKERS=2\nOBWORKER_THREADS=2\n")
    printed = settings_in(print_config(str(tmp_path), environ={"OBWORKER_THREADS": "3"}))
    assert printed["workers"][0] == "2"
    assert printed["threads"][0] == "3"


def test_a_directory_that_is_called_like_a_script_has_a_dotenv_of_its_own(tmp_path: Path) -> None:
    model = tmp_path / "model.py"
    model.mkdir()
    (model / ".env").write_text("OBWORKER_WORKERS=2\n")
    (tmp_path / ".env").write_text("OBWORKER_WORKERS=3\n")
    assert settings_in(print_config(str(model)))["workers"][0] == "2"


def test_the_model_may_come_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"model = '{tmp_path}/nowhere'\n")
    ended = obworker("--config", str(tmp_path / "c.toml"))
    assert ended.returncode == 2
    assert ended.stderr == (
        f"obworker: error: {tmp_path}/nowhere: there is no such file or directory\n"
    )


@pytest.mark.parametrize(
    ("argv", "guess"),
    [
        (["--worker", "2"], "--workers"),
        (["--timout", "2"], "--timeout"),
        (["--print-confg"], "--print-config"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(argv: list[str], guess: str) -> None:
    ended = obworker(*argv, "model")
    assert ended.returncode == 2
    assert ended.stderr.startswith("obworker: error: No such option")
    assert guess in ended.stderr
    assert ended.stderr.endswith("\nhint: obworker --help\n")


def test_a_closed_output_is_no_traceback(tmp_path: Path) -> None:
    line = " ".join(command("--help")) + " | true"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_cannot_be_encoded_is_printed_with_escapes(encoding: str) -> None:
    printed = print_config("\udcff", environ={"PYTHONIOENCODING": encoding})
    assert 'model = "\\udcff"' in printed


@pytest.mark.parametrize("given", ["--nope", "/nowhere"])
def test_an_error_that_cannot_be_told_has_its_exit_code(given: str) -> None:
    line = f"OBWORKER_NOPE=1 {' '.join(command(given))} 2> /dev/full"  # full(4)
    assert subprocess.run(["bash", "-c", line], check=False).returncode == 2


@pytest.mark.parametrize("argument", ["--help", "--version", "--print-config"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_cannot_be_printed_is_said_in_a_line(argument: str, unbuffered: str) -> None:
    told = "obworker: error: standard output: No space left on device\n"
    with Path("/dev/full").open("w") as full:
        assert printing_to(full, argument, unbuffered) == (1, told)


@pytest.mark.parametrize("argument", ["--help", "--version", "--print-config"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nothing_is_said_where_the_reader_has_gone(argument: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        assert printing_to(pipe, argument, unbuffered) == (1, "")


def printing_to(output: IO[str], argument: str, unbuffered: str) -> tuple[int, str]:
    """Return the exit code, and what standard error has."""
    ended = subprocess.run(
        command(argument),
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    return ended.returncode, ended.stderr
