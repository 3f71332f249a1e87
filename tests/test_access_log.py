"""Lines of the access log, and a writer that never holds up who serves requests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import eventually

from obworker import access_lines, access_log
from obworker.access_lines import AccessRecord, json_line, text_line, trace_id
from obworker.access_log import MOST_WAITING, AccessLog

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def record(**changes: Any) -> AccessRecord:
    return AccessRecord(
        time=1_700_000_000.25,
        client="10.0.0.7",
        method="POST",
        target=b"/?k=5",
        protocol="HTTP/1.1",
        status=200,
        sent=1234,
        request_id="r-1",
        queued=0.00031,
        predict=0.0555,
        duration=0.0567,
        traceparent="",
    )._replace(**changes)


@pytest.fixture(autouse=True)
def _in_shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    access_lines._local_time.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    access_lines._local_time.cache_clear()


class TestText:
    def test_a_line(self) -> None:
        assert text_line(record(), 2) == (
            b'10.0.0.7 [2023-11-15T06:13:20+0800] "POST /?k=5 HTTP/1.1" 200 1234 56.7ms'
            b" queued=0.3ms predict=55.5ms slot=2 id=r-1\n"
        )

    def test_what_is_not_there_is_a_dash(self) -> None:
        line = text_line(record(client="", request_id=""), None)
        assert line.startswith(b"- [")
        assert line.endswith(b" slot=- id=-\n")

    def test_so_is_a_request_that_was_not_understood(self) -> None:
        line = text_line(record(method="", target=b"", protocol="", status=400), 0)
        assert b'] "-" 400 1234 ' in line

    @pytest.mark.parametrize(
        ("target", "shown"),
        [
            (b'/" 200 0 0.0ms', rb"/\x22 200 0 0.0ms"),
            (b"/\r\n10.0.0.1 -", rb"/\x0d\x0a10.0.0.1 -"),
            (b"/\\x22", rb"/\x5cx22"),
            (b"/\x1b[31m\x00\x7f", rb"/\x1b[31m\x00\x7f"),
            ("/猫".encode(), rb"/\xe7\x8c\xab"),
        ],
    )
    def test_a_client_can_forge_neither_a_line_nor_a_field(
        self, target: bytes, shown: bytes
    ) -> None:
        line = text_line(record(target=target), 0)
        assert b'"POST ' + shown + b' HTTP/1.1" 200 1234 ' in line
        assert line.count(b"\n") == 1
        assert line.count(b'"') == 2

    def test_nor_can_who_is_believed_about_the_client(self) -> None:
        line = text_line(record(client='1.2.3.4" \n\udcff'), 0)
        assert line.startswith(rb"1.2.3.4\x22 \x0a\xdcff [")


class TestJson:
    def test_a_line(self) -> None:
        line = json_line(record(traceparent=f"00-{TRACE}-{PARENT}-01"), 2)
        assert line.endswith(b"}\n")
        assert json.loads(line) == {
            "time": "2023-11-15T06:13:20.250+08:00",
            "client": "10.0.0.7",
            "method": "POST",
            "target": "/?k=5",
            "protocol": "HTTP/1.1",
            "status": 200,
            "bytes": 1234,
            "duration": 0.0567,
            "queued": 0.00031,
            "predict": 0.0555,
            "slot": 2,
            "request_id": "r-1",
            "trace_id": TRACE,
        }

    def test_what_is_not_there_is_null(self) -> None:
        found = json.loads(json_line(record(), None))
        assert (found["slot"], found["trace_id"]) == (None, None)

    @pytest.mark.parametrize("target", [b'/"},{"status":200', b"/\r\n{}", b"/\x00\xff", b"/\\"])
    def test_a_client_cannot_forge_a_line(self, target: bytes) -> None:
        line = json_line(record(target=target), 0)
        assert line.count(b"\n") == 1
        assert json.loads(line)["target"] == target.decode("latin-1")


@pytest.mark.parametrize(
    ("traceparent", "found"),
    [
        (f"00-{TRACE}-{PARENT}-01", TRACE),
        (f"00-{TRACE}-{PARENT}-00", TRACE),
        (f"01-{TRACE}-{PARENT}-00-what-comes-later", TRACE),
        (f"cc-{TRACE}-{PARENT}-00", TRACE),
        (f"00-{TRACE}-{PARENT}-01-more", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"01-{TRACE}-{PARENT}-00more", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE[:-1]}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}-1", None),
        (f"00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}-01\n", None),
        ("", None),
    ],
)
def test_a_trace_is_known_by_w3c_trace_context_3_2_2(traceparent: str, found: str | None) -> None:
    assert trace_id(traceparent) == found


def lines(path: Path) -> list[str]:
    """Return the targets of all lines."""
    return re.findall(r'"POST (\S+) ', path.read_text())


def failed_for_now(path: Path, caplog: pytest.LogCaptureFixture) -> AccessLog:
    """Make one that has lost a line to a full disk, which then has room again."""
    path.symlink_to("/dev/full")
    log = AccessLog(str(path), "text", 0)
    log.write(record(target=b"/lost"))
    eventually(lambda: caplog.records)
    path.unlink()
    return log


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow any further, as on a full disk (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _find_no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class Pipe:
    """A pipe that nobody reads until told to, by the path of its writing end."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()
        self.path = f"/proc/self/fd/{self._writing}"

    def close_writing(self) -> None:
        os.close(self._writing)

    def read_all(self) -> bytes:
        self.close_writing()
        with os.fdopen(self.reading, "rb") as file:
            return file.read()


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


class TestWriter:
    def test_where_no_thread_can_be_had_it_is_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error left the connection of the request without an end, and no line was written."""
        path = tmp_path / "access"
        log = AccessLog(str(path), "text", 0)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", _find_no_thread)
            log.write(record())
        log.write(record())
        log.close()
        assert len(lines(path)) == 2

    def test_lines_are_written_soon_and_in_order(self, tmp_path: Path) -> None:
        path = tmp_path / "access"
        log = AccessLog(str(path), "text", 0)
        for i in range(100):
            log.write(record(target=f"/{i}".encode()))
        eventually(lambda: len(lines(path)) == 100)
        log.write(record(target=b"/later"))
        eventually(lambda: len(lines(path)) == 101)
        log.close()
        assert lines(path) == [*(f"/{i}" for i in range(100)), "/later"]

    def test_what_waits_at_the_end_is_written(self, tmp_path: Path) -> None:
        path = tmp_path / "access"
        log = AccessLog(str(path), "json", 0)
        for _ in range(MOST_WAITING):
            log.write(record())
        log.close()
        assert path.read_text().count("\n") == MOST_WAITING

    def test_without_requests_there_is_no_thread(self, tmp_path: Path) -> None:
        before = threading.active_count()
        log = AccessLog(str(tmp_path / "access"), "text", 0)
        assert threading.active_count() == before
        log.close()

    def test_nothing_runs_while_no_requests_come(self, tmp_path: Path) -> None:
        log = AccessLog(str(tmp_path / "access"), "text", 0)
        log.write(record())
        eventually(lambda: lines(tmp_path / "access"))
        (thread,) = (t for t in threading.enumerate() if t.name == "access log")
        status = Path(f"/proc/self/task/{thread.native_id}/status")

        def switches() -> str:
            return status.read_text().partition("\nvoluntary_ctxt_switches:")[2]

        def is_quiet() -> bool:
            before = switches()
            time.sleep(0.2)
            return switches() == before

        eventually(is_quiet)
        log.close()

    def test_a_reader_that_never_reads_holds_nobody_up(
        self, pipe: Pipe, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = AccessLog(pipe.path, "text", 0)
        started = time.monotonic()
        for i in range(3 * MOST_WAITING):
            log.write(record(target=f"/{i}".encode()))
        assert time.monotonic() - started < 1
        eventually(lambda: "the access log lost" in caplog.text)
        started = time.monotonic()
        log.close()
        assert time.monotonic() - started < 3, "its end does not wait for ever, either"
        written = list(map(int, re.findall(rb'"POST /(\d+) ', pipe.read_all())))
        oldest = written[:MOST_WAITING]
        assert oldest == list(range(len(oldest)))
        assert written == sorted(set(written)), "what finds room later, in order"

    def test_the_log_counts_what_was_lost(
        self, pipe: Pipe, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = AccessLog(pipe.path, "text", 0)
        total = 2 * MOST_WAITING
        for _ in range(total):
            log.write(record())
        threading.Thread(target=log.close).start()
        written = pipe.read_all().count(b"\n")
        told = re.findall(
            r"the access log lost (\d+) lines: \S+ takes them too slowly", caplog.text
        )
        assert 0 < written < total
        assert written + sum(map(int, told)) == total
        assert len(told) <= 2, "once a second, and at the end"

    def test_lines_of_many_processes_do_not_mix(self, tmp_path: Path) -> None:
        path = tmp_path / "access"
        code = (
            "import sys; from obworker.access_lines import AccessRecord\n"
            "from obworker.access_log import AccessLog\n"
            "log = AccessLog(sys.argv[1], 'text', None)\n"
            "for i in range(300):\n"
            "    log.write(AccessRecord(0, '', 'POST', sys.argv[2].encode() * 8000, '', 200, 0, '',"
            " 0, 0, 0, ''))\n"
            "log.close()"
        )
        writers = [
            subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "abcd"
        ]
        assert [writer.wait(60) for writer in writers] == [0] * 4
        found = lines(path)
        assert len(found) == 1200
        assert set(found) == {letter * 8000 for letter in "abcd"}

    def test_a_renamed_file_is_left_for_a_new_one(self, tmp_path: Path) -> None:
        path = tmp_path / "access"
        log = AccessLog(str(path), "text", 0)
        log.write(record(target=b"/1"))
        log.write(record(target=b"/2"))
        path.rename(tmp_path / "access.1")
        log.reopen()
        log.write(record(target=b"/3"))
        log.close()
        assert lines(tmp_path / "access.1") == ["/1", "/2"]
        assert lines(path) == ["/3"]

    def test_children_do_not_inherit_it(self, tmp_path: Path) -> None:
        path = tmp_path / "access"
        log = AccessLog(str(path), "text", 0)
        path.unlink()
        log.reopen()
        eventually(path.exists)
        listing = "import os; fds = '/proc/self/fd'; print(*map(os.path.realpath, os.scandir(fds)))"
        shown = subprocess.run(
            [sys.executable, "-c", listing],
            close_fds=False,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        log.close()
        assert str(path.resolve()) not in shown

    def test_no_descriptor_is_left(self, tmp_path: Path) -> None:
        before = count_descriptors()
        log = AccessLog(str(tmp_path / "access"), "text", 0)
        for _ in range(10):
            log.reopen()
        log.close()
        assert count_descriptors() == before

    def test_a_full_disk_is_told_once_and_stops_it(self, caplog: pytest.LogCaptureFixture) -> None:
        log = AccessLog("/dev/full", "text", 0)
        for _ in range(3):
            log.write(record())
        log.close()
        (told,) = caplog.records
        assert told.getMessage() == "no access log for now: /dev/full: No space left on device"

    def test_a_reader_that_has_gone_is_told_once(
        self, pipe: Pipe, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = AccessLog(pipe.path, "text", 0)
        os.close(pipe.reading)
        for _ in range(3):
            log.write(record())
        log.close()
        pipe.close_writing()
        (told,) = caplog.records
        assert told.getMessage().endswith("Broken pipe")

    def test_a_while_after_a_failure_it_is_tried_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level("INFO", "obworker.log")
        monkeypatch.setattr(access_log, "RETRY_INTERVAL", 0.2)
        path = tmp_path / "access"
        log = failed_for_now(path, caplog)
        path.touch()

        def is_written() -> bool:
            log.write(record(target=b"/kept"))
            return bool(lines(path))

        eventually(is_written)
        log.close()
        assert set(lines(path)) == {"/kept"}
        assert re.search(
            r"the access log goes on: \S+/access; [1-9]\d* lines were lost", caplog.text
        )
        assert caplog.text.count("no access log for now") == 1

    def test_behind_a_line_that_was_cut_short_the_next_begins_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(access_log, "RETRY_INTERVAL", 0.0)
        path = tmp_path / "access"
        log = AccessLog(str(path), "text", 0)
        with largest_file(200):
            for _ in range(3):
                log.write(record(target=b"/cut"))
            eventually(lambda: caplog.records)
        log.write(record(target=b"/kept"))
        log.close()
        whole, cut, last = path.read_text().splitlines()
        assert len(f"{whole}\n{cut}") == 200
        assert "/kept" in last
        assert len(last) == len(whole) + 1

    def test_reopening_starts_it_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "access"
        log = failed_for_now(path, caplog)
        log.reopen()
        log.write(record(target=b"/kept"))
        log.close()
        assert lines(path) == ["/kept"]

    def test_a_failed_reopening_keeps_the_old_file(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        directory = tmp_path / "logs"
        directory.mkdir()
        log = AccessLog(str(directory / "access"), "text", 0)
        directory.rename(tmp_path / "moved")
        log.reopen()
        log.write(record())
        log.close()
        assert "the old file stays in use" in caplog.text
        assert len(lines(tmp_path / "moved" / "access")) == 1


def test_a_file_that_cannot_be_had_is_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "missing" / "file"
    log = AccessLog(str(path), "text", 0)
    log.write(record())
    path.parent.mkdir()
    log.reopen()
    log.write(record())
    log.close()
    told = f"no access log for now: --access-log-file: cannot append to {path}: No such file"
    assert caplog.text.count(told) == 1
    assert len(lines(path)) == 1
