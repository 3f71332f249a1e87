"""What a scrape says, of scoreboards as a master and its workers would write them."""

from __future__ import annotations

import re

import pytest
from boards import NOW, fill, scoreboard
from harness import ROOT
from prometheus_client.parser import text_string_to_metric_families

from obworker.admin import metrics
from obworker.http.tally import CODES
from obworker.supervisor import health
from obworker.supervisor.memory import OTHERS, Measurement, Memory
from obworker.supervisor.readings import Sensed, write
from obworker.supervisor.scoreboard import Cause, Scoreboard, State

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(board: Scoreboard, measured: dict[int, Memory] | None = None) -> Samples:
    others = {1: "master", 2: "mold", 3: "admin"}
    measurement = Measurement(measured or {}, 0.25, NOW)
    text = metrics.text(health.report(board, NOW), measurement, others).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, metric: str, /, **labels: str) -> float | None:
    """Return the value of the only sample with this name and at least these labels."""
    found = [
        number
        for (sample, has), number in samples.items()
        if sample == metric and labels.items() <= has
    ]
    assert len(found) < 2
    return found[0] if found else None


def test_the_service() -> None:
    with scoreboard(2, label="./model", started_at=NOW - 60, reloads=3, generation=4) as board:
        fill(board, 0, 0, State.IDLE, pid=7)
        samples = scrape(board)
    assert value(samples, "obworker_info", model="./model") == 1
    assert value(samples, "obworker_ready") == 1
    assert value(samples, "obworker_uptime_seconds") == 60
    assert value(samples, "obworker_reloads_total") == 3
    assert value(samples, "obworker_generation") == 4
    assert value(samples, "obworker_workers_wanted") == 2
    assert value(samples, "obworker_workers_ready") == 1


def test_what_is_not_known_is_absent() -> None:
    with scoreboard(1) as board:
        samples = scrape(board)
    assert value(samples, "obworker_ready") == 0
    assert value(samples, "obworker_uptime_seconds") is None
    assert value(samples, "obworker_worker_uptime_seconds") is None
    assert value(samples, "obworker_request_age_seconds") is None
    assert value(samples, "obworker_queue_requests") is None
    assert value(samples, "obworker_last_reload_failed") == 0


def test_a_slot_counts_for_all_its_processes() -> None:
    with scoreboard(1) as board:
        slot = board.slot(0)
        slot.exits[Cause.SIGNAL] = 2
        slot.write_text("device", "gpu 3")
        fill(
            board,
            0,
            0,
            State.DRAINING,
            pid=7,
            requests=105,
            in_flight=1,
            begun_at=NOW - 4,
            waiting=2,
        )
        fill(
            board,
            0,
            1,
            State.BUSY,
            pid=8,
            requests=2,
            no_memory=1,
            in_flight=2,
            begun_at=NOW - 1,
            waiting=1,
        )
        samples = scrape(board)
    labels = {"slot": "0", "device": "gpu 3"}
    assert value(samples, "obworker_requests_total", **labels) == 107
    assert value(samples, "obworker_requests_in_flight", **labels) == 3
    assert value(samples, "obworker_request_age_seconds", **labels) == 4
    assert value(samples, "obworker_requests_waiting", **labels) == 3
    assert value(samples, "obworker_restarts_total", cause="signal", **labels) == 2
    assert value(samples, "obworker_restarts_total", cause="oom", **labels) == 0
    assert value(samples, "obworker_no_memory_total", **labels) == 1
    assert value(samples, "obworker_worker_ready", **labels) == 1
    assert value(samples, "obworker_quarantined", **labels) == 0


def test_a_counter_does_not_fall_when_a_process_goes() -> None:
    with scoreboard(1) as board:
        fill(board, 0, 0, State.BUSY, pid=7, requests=5, in_flight=1)
        before = value(scrape(board), "obworker_requests_total", slot="0")
        board.seat(0, 0).clear()
        assert value(scrape(board), "obworker_requests_total", slot="0") == before == 5


def test_responses_by_class_are_there_from_the_start() -> None:
    with scoreboard(1) as board:
        board.seat(0, 0).responses[:] = [7, 0, 2, 1]
        samples = scrape(board)
    counts = [value(samples, "obworker_responses_total", slot="0", code=code) for code in CODES]
    assert counts == [7, 0, 2, 1]


def test_how_long_requests_took_is_a_histogram() -> None:
    with scoreboard(1) as board:
        row = board.seat(0, 0)
        row.buckets[0], row.buckets[3], row.buckets[-1], row.seconds = 5, 2, 1, 99.5
        samples = scrape(board)

    def below(bound: str) -> float | None:
        return value(samples, "obworker_request_seconds_bucket", slot="0", le=bound)

    assert [below(bound) for bound in ("0.001", "0.01", "0.025", "60.0", "+Inf")] == [5, 5, 7, 7, 8]
    assert value(samples, "obworker_request_seconds_count", slot="0") == 8
    assert value(samples, "obworker_request_seconds_sum", slot="0") == 99.5


def test_the_queue_and_the_last_reload() -> None:
    with scoreboard(1, queued=7, queue_limit=100, reload_failure="SyntaxError") as board:
        samples = scrape(board)
    assert value(samples, "obworker_queue_requests") == 7
    assert value(samples, "obworker_queue_limit") == 100
    assert value(samples, "obworker_last_reload_failed") == 1


@pytest.mark.parametrize("state", [State.IDLE, State.STUCK, State.BACKOFF])
def test_the_state_of_a_worker(state: State) -> None:
    with scoreboard(1) as board:
        fill(board, 0, 0, state, pid=7)
        samples = scrape(board)
    assert value(samples, "obworker_worker_state", slot="0", state=state.name.lower()) == 1
    assert value(samples, "obworker_worker_state") == 1  # and no other


def test_a_device_in_quarantine() -> None:
    with scoreboard(1) as board:
        board.slot(0).write_text("quarantine", "CUDA error")
        fill(board, 0, 0, State.RETIRED)
        samples = scrape(board)
    assert value(samples, "obworker_quarantined", slot="0") == 1
    assert value(samples, "obworker_worker_ready", slot="0") == 0


def test_memory_is_that_of_the_master_the_slots_and_the_rest() -> None:
    measured = {pid: Memory(pid * 100, pid * 10, pid) for pid in (1, 2, 3, 7, 8, 20)}
    measured[OTHERS] = Memory(30, 20, 10)
    with scoreboard(1, master_pid=1) as board:
        fill(board, 0, 0, State.DRAINING, pid=7)
        fill(board, 0, 1, State.IDLE, pid=8)
        samples = scrape(board, measured)
    assert value(samples, "obworker_memory_pss_bytes", process="master") == 10
    assert value(samples, "obworker_memory_rss_bytes", process="worker", slot="0") == 1500
    assert value(samples, "obworker_memory_pss_bytes", process="mold") == 20
    assert value(samples, "obworker_memory_pss_bytes", process="admin") == 30
    assert value(samples, "obworker_memory_uss_bytes", process="other") == 30
    assert value(samples, "obworker_memory_read_seconds") == 0.25


def test_gpus_say_what_their_driver_tells() -> None:
    with scoreboard(1) as board:
        board.slot(0).write_text("device", "gpu 0")
        write(board, [Sensed(0, "GPU-a", "H100", 5.0, 80.0, 97, None)], NOW)
        samples = scrape(board)
    assert value(samples, "obworker_gpu_memory_used_bytes", gpu="0", uuid="GPU-a") == 5
    assert value(samples, "obworker_gpu_utilisation_ratio", name="H100") == pytest.approx(0.97)
    assert value(samples, "obworker_gpu_temperature_celsius") is None


def test_every_metric_is_documented_with_its_labels() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = re.findall(r"^\| `(obworker_\w+)` \| (.*?) \|", page, re.MULTILINE)
    assert documented == [
        (kind.name, ", ".join(f"`{label}`" for label in kind.labels)) for kind in metrics.METRICS
    ]
