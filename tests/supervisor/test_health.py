"""Verdicts and the report, from scoreboards that are written by hand."""

from __future__ import annotations

import json

import pytest
from boards import NOW, fill, scoreboard

from obworker.supervisor import health
from obworker.supervisor.health import Standing
from obworker.supervisor.scoreboard import Cause, Phase, State

# phase, workers that serve, wanted, needed: the status, and why it is not ready
VERDICTS = [
    (Phase.STARTING, 0, 2, 1, "starting", "obworker is starting: 0 of 2 workers ready, 1 needed"),
    (Phase.STARTING, 1, 2, 2, "starting", "obworker is starting: 1 of 2 workers ready, 2 needed"),
    (Phase.STARTING, 2, 2, 1, "starting", "obworker is starting: 2 of 2 workers ready, 1 needed"),
    (Phase.SERVING, 2, 2, 1, "ok", None),
    (Phase.SERVING, 1, 2, 1, "degraded", None),
    (Phase.SERVING, 1, 2, 2, "unready", "1 of 2 workers ready, 2 needed"),
    (Phase.SERVING, 0, 2, 1, "unready", "0 of 2 workers ready, 1 needed"),
    (Phase.SERVING, 0, 0, 1, "unready", "0 of 0 workers ready, 1 needed"),
    (Phase.RELOADING, 2, 2, 2, "ok", None),
    (Phase.RELOADING, 1, 2, 1, "degraded", None),
    (Phase.RELOADING, 0, 2, 1, "unready", "0 of 2 workers ready, 1 needed"),
    (Phase.STOPPING, 2, 2, 1, "stopping", "obworker is stopping"),
]


@pytest.mark.parametrize(("phase", "serving", "wanted", "needed", "status", "reason"), VERDICTS)
def test_the_verdict(
    phase: Phase, serving: int, wanted: int, needed: int, status: str, reason: str | None
) -> None:
    stands = Standing(phase, serving, wanted, needed)
    assert (stands.status.value, stands.reason) == (status, reason)
    assert stands.is_ready is (reason is None)


@pytest.mark.parametrize("state", State)
def test_only_a_process_that_serves_makes_the_service_ready(state: State) -> None:
    with scoreboard(1) as board:
        fill(board, 0, 0, state, pid=7)
        assert health.standing(board).is_ready is (state in (State.IDLE, State.BUSY))


def test_without_a_need_one_worker_is_needed() -> None:
    with scoreboard(1, min_ready=0) as board:
        assert not health.standing(board).is_ready


def test_devices_in_quarantine_are_named_once_and_their_slots_say_why() -> None:
    with scoreboard(3) as board:
        for index, device in enumerate(("gpu 4", "gpu 6", "gpu 4")):
            board.slot(index).write_text("device", device)
        for index in (0, 2):
            board.slot(index).write_text("quarantine", "CUDA error")
            board.slot(index).quarantined_until = NOW + 9.96
        report = health.report(board, NOW)
    assert report["reason"] == "0 of 3 workers ready, 1 needed; in quarantine: gpu 4"
    assert isinstance(report["slots"], list)
    held = {"reason": "CUDA error", "left": 10.0}
    assert [slot["quarantine"] for slot in report["slots"]] == [held, None, held]


def test_what_is_not_known_is_null() -> None:
    with scoreboard() as board:
        assert health.report(board, NOW) == {
            "status": "unready",
            "ready": False,
            "reason": "0 of 0 workers ready, 1 needed",
            "phase": "serving",
            "model": None,
            "address": None,
            "pid": None,
            "uptime": None,
            "generation": None,
            "reloads": 0,
            "reload_failure": None,
            "workers": {"ready": 0, "wanted": 0, "needed": 1},
            "queue": None,
            "slots": [],
            "gpus": [],
        }


def test_the_service_is_described() -> None:
    with scoreboard(
        label="./model",
        address="0.0.0.0:80",
        master_pid=7,
        generation=2,
        started_at=NOW - 60.25,
        reloads=3,
        reload_failure="SyntaxError",
        queued=3,
        queue_limit=200,
    ) as board:
        report = health.report(board, NOW)
    assert report["queue"] == {"waiting": 3, "limit": 200}
    told = [report[key] for key in ("model", "address", "pid", "generation", "uptime", "reloads")]
    assert told == ["./model", "0.0.0.0:80", 7, 2, 60.2, 3]
    assert report["reload_failure"] == "SyntaxError"


def slot_report(state: State, **fields: object) -> dict[str, object]:
    with scoreboard(1) as board:
        fill(board, 0, 0, state, **fields)
        report = health.report(board, NOW)
    assert json.loads(json.dumps(report)) == report
    slots = report["slots"]
    assert isinstance(slots, list)
    return dict(slots[0])


def test_a_busy_worker_shows_its_request() -> None:
    fields = {
        "pid": 9,
        "generation": 4,
        "ready_at": NOW - 10,
        "in_flight": 2,
        "waiting": 3,
        "requests": 5,
        "begun_at": NOW - 1.5,
        "request_line": "POST /",
        "request_id": "abc",
    }
    assert slot_report(State.BUSY, **fields) == {
        "slot": 0,
        "device": None,
        "state": "busy",
        "pid": 9,
        "generation": 4,
        "uptime": 10.0,
        "in_flight": 2,
        "waiting": 3,
        "request": {"line": "POST /", "age": 1.5, "id": "abc"},
        "quarantine": None,
        "requests": 5,
        "no_memory": 0,
        "responses": {},
        "request_seconds": {"sum": 0.0, "buckets": {}},
        "restarts": 0,
        "causes": {},
        "last_exit": None,
        "replacement": None,
    }


def test_responses_and_times_are_those_of_all_processes_of_a_slot() -> None:
    with scoreboard(1) as board:
        for seat in board.seats(0):
            seat.responses[:] = [3, 0, 1, 0]
            seat.buckets[0], seat.buckets[-1], seat.seconds = 2, 1, 70.0004
        slots = health.report(board, NOW)["slots"]
    assert isinstance(slots, list)
    assert slots[0]["responses"] == {"2xx": 6, "4xx": 2}
    assert slots[0]["request_seconds"] == {"sum": 140.001, "buckets": {"0.001": 4, "+Inf": 2}}


def test_a_request_that_is_over_is_not_shown() -> None:
    shown = slot_report(State.IDLE, pid=9, request_line="POST /", begun_at=NOW - 9)
    assert (shown["in_flight"], shown["request"]) == (0, None)


def test_a_worker_that_boots_has_no_uptime() -> None:
    shown = slot_report(State.BOOTING, pid=9, generation=1, spawned_at=NOW - 5)
    assert (shown["state"], shown["pid"], shown["uptime"]) == ("booting", 9, None)


@pytest.mark.parametrize("state", [State.EMPTY, State.BACKOFF, State.REAPED, State.RETIRED])
def test_a_process_that_has_gone_is_not_shown(state: State) -> None:
    shown = slot_report(state, pid=9, generation=1, ready_at=NOW - 5, in_flight=1, waiting=1)
    keys = ("state", "pid", "generation", "uptime", "in_flight", "waiting", "request")
    assert [shown[key] for key in keys] == [state.name.lower(), None, None, None, 0, 0, None]


def test_the_history_of_a_slot_outlives_its_processes() -> None:
    with scoreboard(1) as board:
        slot = board.slot(0)
        slot.write_text("device", "gpu 1")
        slot.write_text("last_exit", "was killed by SIGSEGV")
        slot.last_exit_at, slot.exits[Cause.SIGNAL], slot.exits[Cause.BOOT] = NOW - 30, 2, 1
        fill(board, 0, 0, State.DRAINING, requests=105, spawned_at=1.0)
        fill(board, 0, 1, State.IDLE, requests=2, spawned_at=2.0)
        shown = health.report(board, NOW)["slots"]
    assert isinstance(shown, list)
    assert (shown[0]["device"], shown[0]["restarts"], shown[0]["requests"]) == ("gpu 1", 3, 107)
    assert shown[0]["causes"] == {"boot": 1, "signal": 2}
    assert shown[0]["last_exit"] == {"text": "was killed by SIGSEGV", "ago": 30.0}


# the states of both seats, and when their processes were made: which is the slot's, which comes
TWO = [
    (State.IDLE, 1.0, State.BOOTING, 2.0, "idle", "booting"),
    (State.BOOTING, 2.0, State.IDLE, 1.0, "idle", "booting"),
    (State.IDLE, 2.0, State.DRAINING, 1.0, "draining", "idle"),
    (State.BACKOFF, 1.0, State.IDLE, 2.0, "idle", "backoff"),
    (State.IDLE, 1.0, State.EMPTY, 2.0, "idle", None),
    (State.RETIRED, 2.0, State.DRAINING, 1.0, "draining", None),
]


@pytest.mark.parametrize(("first", "made", "second", "made_too", "state", "coming"), TWO)
def test_the_newer_of_two_processes_is_the_replacement(
    first: State, made: float, second: State, made_too: float, state: str, coming: str | None
) -> None:
    with scoreboard(1) as board:
        fill(board, 0, 0, first, pid=8, spawned_at=made)
        fill(board, 0, 1, second, pid=9, spawned_at=made_too)
        shown = health.report(board, NOW)["slots"]
    assert isinstance(shown, list)
    assert shown[0]["state"] == state
    assert (shown[0]["replacement"] or {"state": None})["state"] == coming


def test_a_slot_that_is_not_wanted_is_shown_while_somebody_is_there() -> None:
    with scoreboard(3, wanted=1) as board:
        fill(board, 0, 0, State.IDLE)
        fill(board, 1, 0, State.DRAINING, pid=9)
        fill(board, 2, 0, State.RETIRED)
        report = health.report(board, NOW)
    assert isinstance(report["slots"], list)
    assert [slot["slot"] for slot in report["slots"]] == [0, 1]
    assert report["status"] == "ok"
