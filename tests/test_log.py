"""Where the lines go, also when files are renamed under the processes that write them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from obworker.errors import UsageError
from obworker.log_files import open_files
from obworker.settings import Settings


def run(code: str, **settings: Any) -> tuple[str, str]:
    """Run code in a process that logs as the settings say; return what its own outputs got."""
    start = (
        "import faulthandler, json, logging, os, subprocess, sys\n"
        "from obworker import log, log_files, request_context\n"
        "from obworker.settings import Settings\n"
        "settings = Settings(**json.loads(sys.argv[1]))\n"
        "log_files.open_files(settings); log.configure('info')\n"
        "logger = logging.getLogger('obworker.test')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + code, json.dumps(settings, default=str)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


# Everything by which a process says something: our log, the user's print, a C library, a child.
SPEAK = """
logger.info("logged")
print("printed")
os.write(2, b"from C\\n")
subprocess.run(["sh", "-c", "echo child out; echo child err >&2"])
faulthandler.dump_traceback()
"""
TO_ERROR = ["logged", "from C", "child err", "most recent call first"]
TO_OUTPUT = ["printed", "child out"]


class TestLogFile:
    def test_without_one_the_outputs_stay_what_they_are(self) -> None:
        output, error = run(SPEAK)
        assert all(words in error for words in TO_ERROR)
        assert output.splitlines() == TO_OUTPUT

    def test_it_takes_all_that_goes_to_standard_error(self, tmp_path: Path) -> None:
        output, error = run(SPEAK, log_file=tmp_path / "log")
        log = (tmp_path / "log").read_text()
        assert all(words in log for words in TO_ERROR)
        assert error == ""
        assert output.splitlines() == TO_OUTPUT, "beside the access log"

    @pytest.mark.parametrize(
        "access", [{"access_log": False}, {"access_log_file": "access"}], ids=str
    )
    def test_it_takes_what_is_printed_where_the_access_log_is_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access: dict[str, Any]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run(SPEAK, log_file=tmp_path / "log", **access) == ("", "")
        log = (tmp_path / "log").read_text()
        assert all(words in log for words in TO_ERROR + TO_OUTPUT)

    def test_it_is_appended_to(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text("yesterday\n")
        run("logger.info('today')", log_file=tmp_path / "log")
        yesterday, today = (tmp_path / "log").read_text().splitlines()
        assert (yesterday, today[-5:]) == ("yesterday", "today")

    def test_a_print_is_there_at_once(self, tmp_path: Path) -> None:
        """What was in Python's buffer was lost with a process that was killed."""
        code = "print('before the end'); os._exit(0)"
        run(code, log_file=tmp_path / "log", access_log=False)
        assert (tmp_path / "log").read_text() == "before the end\n"


ROTATE = """
os.rename(settings.log_file, settings.log_file + ".1")
logger.info("into the old file")
log_files.reopen_files(settings)
"""


class TestReopening:
    def test_what_comes_after_it_goes_to_a_new_file(self, tmp_path: Path) -> None:
        run(ROTATE + SPEAK, log_file=tmp_path / "log", access_log=False)
        old, new = (tmp_path / "log.1").read_text(), (tmp_path / "log").read_text()
        assert "into the old file" in old
        assert all(words in new for words in TO_ERROR + TO_OUTPUT)
        assert not any(words in old for words in TO_ERROR + TO_OUTPUT)

    def test_a_failure_is_logged_and_the_old_file_stays_in_use(self, tmp_path: Path) -> None:
        (tmp_path / "logs").mkdir()
        code = "log_files.reopen_files(settings)\nlogger.info('still here')"
        path = tmp_path / "logs"
        moved = f"os.rename({str(path)!r}, {str(path) + '-moved'!r})\n"
        run(moved + code, log_file=path / "log")
        failure, after = (tmp_path / "logs-moved" / "log").read_text().splitlines()
        assert failure.endswith(
            f"--log-file: cannot append to {path}/log: No such file or directory;"
            " the old file stays in use"
        )
        assert after.endswith("still here")

    def test_without_a_file_nothing_happens(self) -> None:
        assert run("log_files.reopen_files(settings); print('fine')") == ("fine\n", "")

    def test_no_descriptor_is_left(self, tmp_path: Path) -> None:
        code = """
def count(): return len(os.listdir("/proc/self/fd"))
before = count()
for _ in range(10):
    log_files.reopen_files(settings)
os.write(1, str(count() - before).encode())
"""
        run(code, log_file=tmp_path / "log", access_log=False)
        assert (tmp_path / "log").read_text() == "0"


@pytest.mark.parametrize("option", ["log_file", "access_log_file"])
def test_a_file_that_cannot_be_had_is_the_users_mistake(tmp_path: Path, option: str) -> None:
    path = tmp_path / "missing" / "file"
    settings: dict[str, Any] = {option: str(path)}
    name = "--" + option.replace("_", "-")
    with pytest.raises(UsageError, match=f"^{name}: cannot append to {path}: No such file"):
        open_files(Settings(**settings))


@pytest.mark.parametrize("option", ["log_file", "access_log_file"])
def test_a_fifo_that_nobody_reads_holds_up_nothing(tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    settings: dict[str, Any] = {option: str(tmp_path / "fifo")}
    with pytest.raises(UsageError, match=r"cannot append to .*: No such device or address"):
        open_files(Settings(**settings))


def test_a_log_file_is_opened_once_or_the_reader_of_a_fifo_would_see_its_end(
    tmp_path: Path,
) -> None:
    code = """
opened = []
sys.addaudithook(lambda event, about: opened.append(about[0]) if event == "open" else None)
log_files.open_files(settings)
os.write(1, str(opened.count(settings.log_file)).encode())
"""
    run(code, log_file=tmp_path / "log", access_log=False)
    assert (tmp_path / "log").read_text() == "1"


def test_an_access_log_that_is_off_is_not_opened(tmp_path: Path) -> None:
    open_files(Settings(access_log=False, access_log_file=str(tmp_path / "access")))
    assert not (tmp_path / "access").exists()


@pytest.mark.parametrize(
    ("before", "level", "logged"),
    [
        ("", "info", ["INFO", "WARNING"]),
        ("", "debug", ["INFO", "WARNING"]),  # what libraries say then would bury ours
        ("", "warning", ["WARNING"]),
        ("logging.root.setLevel('ERROR')", "info", []),
        ("logging.root.addHandler(logging.NullHandler())", "info", []),
    ],
)
def test_what_anybody_logs_is_there_from_info_on(
    before: str, level: str, logged: list[str]
) -> None:
    code = (
        f"logging.root.setLevel('WARNING')\n{before}\nlog.configure({level!r})\n"
        "users = logging.getLogger('users.own')\n"
        "users.debug('hello'); users.info('hello'); users.warning('hello')"
    )
    assert re.findall(r"(\w+) +\[\d+\] hello$", run(code)[1], re.MULTILINE) == logged


class TestRequestIds:
    """A line that is logged on behalf of a request has its id."""

    def test_a_line_of_a_request_has_its_id(self) -> None:
        code = (
            "logger.info('before')\n"
            "with request_context.about_request('r-1'): logger.warning('within')\n"
            "logger.info('after')"
        )
        before, within, after = run(code)[1].splitlines()
        assert re.search(r"INFO +\[\d+\] before$", before)
        assert re.search(r"WARNING +\[\d+\] \[r-1\] within$", within)
        assert re.search(r"INFO +\[\d+\] after$", after)

    def test_on_a_terminal_too(self) -> None:
        code = (
            "class Terminal:\n"
            "    write = staticmethod(sys.stdout.write)\n"
            "    flush = staticmethod(sys.stdout.flush)\n"
            "    isatty = staticmethod(lambda: True)\n"
            "sys.stderr = Terminal(); log.configure('info')\n"
            "with request_context.about_request('r-1'):\n"
            "    logger.info('hello'); logger.error('oh')\n"
        )
        assert run(code)[0].splitlines() == ["[r-1] hello", "error: [r-1] oh"]

    def test_an_exception_that_cannot_be_shown_is_logged_with_its_place(self) -> None:
        code = (
            "class Odd(Exception):\n"
            "    def __getattr__(self, name): raise KeyError(name)\n"
            "try:\n"
            "    raise Odd\n"
            "except Odd:\n"
            "    logger.exception('oh')\n"
        )
        error = run(code)[1]
        assert "oh\nTraceback (most recent call last):\n" in error
        assert "in <module>\n" in error
        assert "Logging error" not in error

    def test_so_has_a_line_of_anybody_who_configured_nothing(self) -> None:
        code = (
            "own = logging.getLogger('users.own'); own.setLevel('DEBUG'); own.debug('no')\n"
            "with request_context.about_request('r-1'): own.warning('hello')"
        )
        (line,) = run(code)[1].splitlines()
        assert re.search(r"WARNING +\[\d+\] \[r-1\] hello$", line)

    def test_who_configured_something_has_it_their_way(self) -> None:
        code = (
            "logging.basicConfig(format='mine: %(message)s')\n"
            "with request_context.about_request('r-1'):\n"
            "    logging.getLogger('users.own').warning('hello')"
        )
        assert run(code)[1] == "mine: hello\n"

    def test_a_thread_belongs_to_no_request_but_in_a_copy_of_its_context(self) -> None:
        code = (
            "import contextvars, threading\n"
            "def run(target):\n"
            "    thread = threading.Thread(target=target); thread.start(); thread.join()\n"
            "with request_context.about_request('r-1'):\n"
            "    run(lambda: print(repr(request_context.request_id())))\n"
            "    context = contextvars.copy_context()\n"
            "    run(lambda: context.run(lambda: print(repr(request_context.request_id()))))\n"
        )
        assert run(code)[0].splitlines() == ["''", "'r-1'"]
