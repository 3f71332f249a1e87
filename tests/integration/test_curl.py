"""curl against a real obworker."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from talking import Talking

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

# Never a proxy, no wait without end, and what curl itself has to say about each transfer.
COMMAND = ("curl", "--noproxy", "*", "--max-time", "60", "-sS", "--write-out", "%{stderr}%{json}\n")
BYTES = ("-H", "Content-Type: application/octet-stream")
LARGE = bytes(range(256)) * (8 << 12)
MIB = 1 << 20


class Transfers(NamedTuple):
    """What one curl printed, and its report on each URL it was given."""

    output: bytes
    reports: list[dict[str, Any]]

    def all(self, variable: str) -> list[Any]:
        """Return a variable of --write-out for each URL."""
        return [report[variable] for report in self.reports]


def curl(*argv: str, body: bytes = b"") -> Transfers:
    ended = subprocess.run([*COMMAND, *argv], input=body, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return Transfers(ended.stdout, [json.loads(line) for line in ended.stderr.splitlines()])


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talking]:
    """Start a server with little room and less patience."""
    options = ("--limit-request-body", "1MiB", "--body-timeout", "2")
    with closing(Talking(tmp_path_factory.mktemp("strict"), *options)) as server:
        yield server


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


def digest(body: bytes) -> dict[str, Any]:
    return {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_several_urls_go_over_one_connection(talking: Talking) -> None:
    urls = [f"{talking.url}/?case=connection"] * 4 + [f"{talking.url}/none", f"{talking.url}/"]
    transfers = curl("-d", "[1]", "-H", "Content-Type: application/json", *urls)
    assert transfers.all("num_connects") == [1, 0, 0, 0, 0, 0]
    assert transfers.all("http_code") == [200, 200, 200, 200, 404, 200]
    assert transfers.output.endswith(b"[1]")


def test_a_body_that_is_asked_for_leave_is_let_in(
    talking: Talking, large: Path, tmp_path: Path
) -> None:
    heads = tmp_path / "heads"
    patient = ("-H", "Expect: 100-continue", "--expect100-timeout", "50")
    body = ("--data-binary", f"@{large}", *BYTES)
    transfers = curl("--dump-header", str(heads), *patient, *body, f"{talking.url}/?case=digest")
    assert json.loads(transfers.output) == digest(LARGE)
    lines = [line for line in heads.read_text().splitlines() if line.startswith("HTTP/")]
    assert lines == ["HTTP/1.1 100 Continue", "HTTP/1.1 200 OK"]
    assert transfers.reports[0]["time_total"] < 20


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(
    strict: Talking, large: Path
) -> None:
    patient = ("-H", "Expect: 100-continue", "--expect100-timeout", "50")
    transfers = curl(*patient, "--data-binary", f"@{large}", strict.url)
    assert transfers.all("http_code") == [413]
    assert transfers.all("size_upload") == [0]
    assert list(json.loads(transfers.output)) == ["error"]


def test_a_body_that_nobody_needs_is_not_asked_for(talking: Talking, large: Path) -> None:
    patient = ("-H", "Expect: 100-continue", "--expect100-timeout", "50")
    transfers = curl(*patient, "--data-binary", f"@{large}", f"{talking.url}/none")
    assert transfers.all("http_code") == [404]
    assert transfers.all("size_upload") == [0]
    assert list(json.loads(transfers.output)) == ["error"]


def test_nor_read_where_it_comes_anyway(talking: Talking, large: Path) -> None:
    transfers = curl("-H", "Expect:", "--data-binary", f"@{large}", f"{talking.url}/none")
    assert transfers.all("http_code") == [404]
    assert list(json.loads(transfers.output)) == ["error"]


def test_a_body_that_proves_too_large_on_its_way_is_refused(strict: Talking, large: Path) -> None:
    transfers = curl("-H", "Expect:", "-X", "POST", "-T", "-", strict.url, body=LARGE)
    assert transfers.all("http_code") == [413]
    assert list(json.loads(transfers.output)) == ["error"]


def test_a_body_sent_in_chunks_arrives_whole(talking: Talking) -> None:
    chunked = ("-H", "Transfer-Encoding: chunked", "--data-binary", "@-", *BYTES)
    transfers = curl(*chunked, f"{talking.url}/?case=digest", body=LARGE)
    assert json.loads(transfers.output) == digest(LARGE)


def test_an_upload_of_unknown_length_arrives_whole(talking: Talking) -> None:
    upload = ("-X", "POST", "-T", "-", *BYTES)
    transfers = curl(*upload, f"{talking.url}/?case=digest", body=LARGE)
    assert json.loads(transfers.output) == digest(LARGE)


def test_http_1_0(talking: Talking, tmp_path: Path) -> None:
    heads, go = tmp_path / "heads", tmp_path / "go"
    go.touch()
    urls = [f"{talking.url}/?case=raw", f"{talking.url}/?case=stream&go={go}"]
    transfers = curl("-0", "--dump-header", str(heads), "-d", "old\n", *BYTES, *urls)
    assert transfers.output == b"old\nfirst\nsecond\n"
    assert transfers.all("num_connects") == [1, 1]
    assert "transfer-encoding" not in heads.read_text().lower()


def test_a_head_has_no_body(talking: Talking) -> None:
    transfers = curl("--head", f"{talking.url}/", f"{talking.url}/")
    assert transfers.all("http_code") == [200, 200]
    assert transfers.all("size_download") == [0, 0]
    assert transfers.all("num_connects") == [1, 0]


def test_who_could_read_compressed_answers_reads_plain_ones(talking: Talking) -> None:
    request = ("--compressed", "-d", '{"a": 1}', "-H", "Content-Type: application/json")
    assert curl(*request, talking.url).output == b'{"a":1}'


def test_a_stream_arrives_part_by_part(talking: Talking, tmp_path: Path) -> None:
    go = tmp_path / "go"
    argv = [*COMMAND, "-N", "-X", "POST", f"{talking.url}/?case=stream&go={go}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        go.touch()
        assert process.stdout.read() == b"second\n"
    assert process.returncode == 0


def test_a_slow_reader_that_never_pauses_for_long_gets_all_of_a_large_answer(
    strict: Talking,
) -> None:
    # curl keeps a rate by pauses: over loopback it takes 10 MB at once, so here one of 1.2 s each
    slow = ("--limit-rate", "8M", "-X", "POST")
    transfers = curl(*slow, f"{strict.url}/?case=large&size={32 * MIB}")
    assert hashlib.sha256(transfers.output).digest() == hashlib.sha256(4 * LARGE).digest()
    assert transfers.reports[0]["time_total"] > 2, "it must take longer than a pause may"
