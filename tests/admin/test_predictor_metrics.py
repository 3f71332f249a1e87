"""The metrics of predictor.py, of files that real processes have written."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from obworker.admin.predictor_metrics import collect

COUNT = """
import sys
from prometheus_client import Counter, Gauge, Histogram, Summary
Counter("items", "Items", ["kind"]).labels("cat").inc(2)
Gauge("loaded", "Loaded").set(1)
Gauge("level", "Level", multiprocess_mode="livesum").set(3)
seconds = Histogram("seconds", "Seconds", buckets=(1, 10))
seconds.observe(0.5)
seconds.observe(5)
Summary("size", "Size").observe(7)
Counter("obworker_requests", "not the predictor's to say").inc()
print(flush=True)
sys.stdin.read()
"""


def start(directory: Path) -> subprocess.Popen[bytes]:
    """Start a process that has counted when this returns, and runs on."""
    process = subprocess.Popen(
        [sys.executable, "-c", COUNT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PROMETHEUS_MULTIPROC_DIR": str(directory)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start(tmp_path)
    yield process
    if process.returncode is None:
        end(process)


def values(directory: Path) -> dict[str, float]:
    """Return the values by name, le and kind; those of a gauge by name alone."""
    return {
        ":".join((sample.name, *(sample.labels[key] for key in sample.labels if key != "pid"))): (
            sample.value
        )
        for metric in collect(directory)
        for sample in metric.samples
    }


OF_ONE = {
    "items_total:cat": 2,
    "seconds_bucket:1.0": 1,
    "seconds_bucket:10.0": 2,
    "seconds_bucket:+Inf": 2,
    "seconds_count": 2,
    "seconds_sum": 5.5,
    "size_count": 1,
    "size_sum": 7,
}


def test_what_processes_count_adds_up(tmp_path: Path, running: subprocess.Popen[bytes]) -> None:
    other = start(tmp_path)
    found = values(tmp_path)
    end(other)
    assert found == {**{name: 2 * value for name, value in OF_ONE.items()}, "loaded": 1, "level": 6}


def test_counts_outlive_their_process_and_gauges_do_not(
    tmp_path: Path, running: subprocess.Popen[bytes]
) -> None:
    end(running)
    assert values(tmp_path) == OF_ONE


def test_processes_that_come_and_go_leave_no_more_files(tmp_path: Path) -> None:
    for run in range(1, 4):
        end(start(tmp_path))
        assert values(tmp_path) == {name: run * value for name, value in OF_ONE.items()}
        assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_cannot_be_read_is_reported(
    tmp_path: Path, running: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"counter_{running.pid}.db").write_bytes(b"\xff\x7f\0\0" + b"\xff" * 9000)
    with caplog.at_level(logging.ERROR):
        assert collect(tmp_path) == []
    assert "cannot read predictor.py's metrics" in caplog.text


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "notes.db"
    other.write_text("not ours")
    assert collect(tmp_path) == []
    assert other.exists()
