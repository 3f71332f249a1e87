from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from obworker.http.cycle import Application, Cycle, StartResponse
from obworker.http.environ import Environ, base_environ
from obworker.http.head import Head, RequestLine
from obworker.http.parser import Request
from obworker.http.tally import BUCKETS, Tally
from obworker.supervisor.rows import RowMonitor
from obworker.supervisor.scoreboard import ID_BYTES, Scoreboard, SeatRow


class Outlet:
    """A connection that nobody reads."""

    may_persist = True
    date = b""

    def write(self, cycle: Cycle, part: bytes) -> None:
        cycle.make_room()

    def finish(self, cycle: Cycle, rest: bytes) -> None:
        pass


@pytest.fixture
def row() -> Iterator[SeatRow]:
    board = Scoreboard.create()
    yield board.seat(0, 0)
    os.close(board.descriptor)


def make_cycle(app: Application, path: str = "/", kind: type[Cycle] = Cycle, **more: Any) -> Cycle:
    head = Head(RequestLine("POST", path.encode(), "1.0", path.encode(), b""), ())
    return kind(app, base_environ("", ""), Request(head, b""), Outlet(), **more)


def request(path: str, started: float, deadline: float = math.inf) -> Cycle:
    """Make a cycle as it is when predict is entered."""
    cycle = make_cycle(lambda environ, start_response: [], path, request_id=f"id-{path}")
    cycle.started, cycle.deadline = started, deadline
    return cycle


def shown(row: SeatRow) -> tuple[float, float, str]:
    return row.begun_at, row.deadline, row.read_text("request_line")


def test_a_new_process_takes_the_seat_clean(row: SeatRow) -> None:
    row.deadline, row.begun_at, row.in_flight = 5.0, 4.0, 3
    row.pid, row.generation = 7, 8
    row.write_text("request_line", "POST /old HTTP/1.0")
    RowMonitor(row)
    assert row.read_text("request_line") == ""
    assert (row.deadline, row.begun_at, row.in_flight) == (math.inf, 0.0, 0)
    assert (row.pid, row.generation) == (7, 8)  # the master's


def test_a_new_process_counts_on_from_the_last(row: SeatRow) -> None:
    row.requests, row.no_memory, row.in_flight, row.pid = 2, 1, 1, 7
    row.clear()
    monitor, cycle = RowMonitor(row), request("/a", 100.0)
    monitor.begun(cycle)
    monitor.ended(cycle)
    assert (row.requests, row.no_memory, row.in_flight, row.pid) == (3, 1, 0, 0)


def test_a_request_is_shown_while_it_is_in_predict(row: SeatRow) -> None:
    seat = RowMonitor(row)
    cycle = request("/a", 100.0, 400.0)
    seat.begun(cycle)
    assert shown(row) == (100.0, 400.0, "POST /a HTTP/1.0")
    assert (row.in_flight, row.requests, row.read_text("request_id")) == (1, 0, "id-/a")
    seat.ended(cycle)
    assert (row.in_flight, row.requests) == (0, 1)
    assert (row.begun_at, row.deadline) == (0.0, math.inf)


def test_the_texts_are_those_of_the_last_one(row: SeatRow) -> None:
    seat = RowMonitor(row)
    for path in ("/a", "/a", "/b", "/a"):
        cycle = request(path, 100.0)
        seat.begun(cycle)
        assert row.read_text("request_line") == f"POST {path} HTTP/1.0"
        assert row.read_text("request_id") == f"id-{path}"
        seat.ended(cycle)


def test_an_id_that_is_too_long_is_cut(row: SeatRow) -> None:
    RowMonitor(row).begun(make_cycle(lambda environ, start_response: [], request_id="x" * 128))
    assert row.read_text("request_id") == "x" * (ID_BYTES - 1)


def test_a_deadline_that_moves_moves_there_too(row: SeatRow) -> None:
    seat = RowMonitor(row)
    cycle = request("/a", 100.0, 400.0)
    seat.begun(cycle)
    cycle.deadline = 900.0
    seat.extended(cycle)
    assert shown(row) == (100.0, 900.0, "POST /a HTTP/1.0")


def test_without_a_limit_the_request_is_shown_all_the_same(row: SeatRow) -> None:
    seat = RowMonitor(row)
    seat.begun(request("/a", 100.0))
    assert shown(row) == (100.0, math.inf, "POST /a HTTP/1.0")


def test_of_several_the_one_that_is_due_first_is_shown(row: SeatRow) -> None:
    seat = RowMonitor(row)
    first, second, third = (
        request(f"/{i}", 100.0 + i, due) for i, due in enumerate((400.0, 300.0, 500.0))
    )
    seat.begun(first)
    seat.begun(second)
    seat.begun(third)
    assert row.in_flight == 3
    assert shown(row) == (101.0, 300.0, "POST /1 HTTP/1.0")
    second.deadline = 450.0
    seat.extended(second)
    assert shown(row) == (100.0, 400.0, "POST /0 HTTP/1.0")
    third.deadline = 600.0
    seat.extended(third)
    assert shown(row) == (100.0, 400.0, "POST /0 HTTP/1.0")
    seat.ended(first)
    assert shown(row) == (101.0, 450.0, "POST /1 HTTP/1.0")
    seat.ended(third)
    assert shown(row) == (101.0, 450.0, "POST /1 HTTP/1.0")
    seat.ended(second)
    assert (row.in_flight, row.requests, row.deadline) == (0, 3, math.inf)


def test_a_beat_is_noted(row: SeatRow) -> None:
    RowMonitor(row).beat(12.5, Tally())
    assert row.beat == 12.5


def tally(*served: tuple[int, float]) -> Tally:
    made = Tally()
    for status, seconds in served:
        made.answered(status)
        made.times.append(seconds)
    return made


def test_what_was_answered_is_counted_on_by_the_next_process(row: SeatRow) -> None:
    first = RowMonitor(row)
    first.beat(1.0, tally((200, 0.5), (503, 0.25)))
    first.beat(1.25, tally((200, 0.5)))
    row.clear()
    RowMonitor(row).beat(2.0, tally((404, 86400.0)))
    assert row.responses[:] == [2, 0, 1, 1]
    assert {bucket: n for bucket, n in zip(BUCKETS, row.buckets, strict=True) if n} == {
        "0.25": 1,
        "0.5": 2,
        "+Inf": 1,
    }
    assert row.seconds == 86401.25


def test_threads_lose_no_count(row: SeatRow) -> None:
    seat = RowMonitor(row)
    start = threading.Barrier(4)

    def extending(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["obworker.extend_deadline"](1000.0)
        start_response("200 OK", [])
        return [b""]

    def serve(number: int) -> None:
        start.wait()
        for i in range(500):
            make_cycle(extending, f"/{number}", timeout=400.0 + i, monitor=seat).run()

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (row.requests, row.in_flight) == (2000, 0)
    assert (row.begun_at, row.deadline) == (0.0, math.inf)


def test_a_cycle_that_runs_fills_it(row: SeatRow) -> None:
    """The two together: what predict sees of its own row."""
    seat = RowMonitor(row)
    allowed: list[float] = []

    def app(environ: Environ, start_response: object) -> list[bytes]:
        assert (row.in_flight, row.requests) == (1, 0)
        allowed.append(row.deadline - row.begun_at)
        environ["obworker.extend_deadline"](60.0)
        allowed.append(row.deadline - row.begun_at)
        raise ConnectionError

    make_cycle(app, timeout=5.0, monitor=seat).run()
    assert allowed == pytest.approx([5.0, 60.0], abs=1.0)
    assert (row.in_flight, row.requests) == (0, 1)


class Looked(Cycle):
    """A cycle that counts how often its deadline was looked at."""

    looks = 0

    @classmethod
    def make(cls) -> Looked:
        made = make_cycle(lambda environ, start_response: [], kind=cls)
        assert isinstance(made, Looked)
        return made

    @property
    def deadline(self) -> float:
        self.looks += 1
        return self.due

    @deadline.setter
    def deadline(self, due: float) -> None:
        self.due = due


def test_a_batch_whose_deadlines_move_is_looked_through_once(row: SeatRow) -> None:
    seat = RowMonitor(row)
    cycles = [Looked.make() for _ in range(50)]
    for due, cycle in enumerate(cycles):
        cycle.deadline = due
        seat.begun(cycle)
    for cycle in reversed(cycles):
        cycle.deadline = 100
        seat.extended(cycle)
    assert sum(cycle.looks for cycle in cycles) < 5 * len(cycles)
    assert row.deadline == 100
