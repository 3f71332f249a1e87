from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from obworker.supervisor.scoreboard import MAX_SLOTS, Phase, Scoreboard, State


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    board = Scoreboard.create()
    yield board
    os.close(board.descriptor)


def test_a_new_scoreboard_is_all_zero(board: Scoreboard) -> None:
    assert board.header.phase == Phase.STARTING
    assert board.header.slots == 0
    assert board.seat(0, 0).state == State.EMPTY
    assert board.count_serving() == 0


def test_another_process_sees_what_is_written(board: Scoreboard) -> None:
    board.header.slots = 2
    board.seat(1, 0).state = State.BUSY
    board.seat(1, 0).deadline = 12.5
    board.slot(1).write_text("last_exit", "was killed by SIGKILL")
    code = (
        "import sys; from obworker.supervisor.scoreboard import Scoreboard\n"
        "board = Scoreboard(int(sys.argv[1])); row = board.seat(1, 0)\n"
        "print(row.state, row.deadline, board.slot(1).read_text('last_exit'))\n"
        "row.requests = 7"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(board.descriptor)],
        pass_fds=[board.descriptor],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown == "4 12.5 was killed by SIGKILL\n"
    assert board.seat(1, 0).requests == 7


def test_rows_do_not_overlap(board: Scoreboard) -> None:
    for slot in (0, 1, MAX_SLOTS - 1):
        for seat in (0, 1):
            board.seat(slot, seat).pid = 10 * slot + seat + 1
            board.seat(slot, seat).write_text("request_line", "x" * 1000)
    for slot in (0, 1, MAX_SLOTS - 1):
        assert [row.pid for row in board.seats(slot)] == [10 * slot + 1, 10 * slot + 2]


@pytest.mark.parametrize("text", ["", "short", "ü" * 300, "x" * 300, "\udcff"])
def test_a_text_is_cut_to_what_fits(board: Scoreboard, text: str) -> None:
    row = board.seat(0, 0)
    row.write_text("request_line", text)
    row.requests = 1
    assert row.read_text("request_line")[:50] == text.replace("\udcff", "?")[:50]
    row.write_text("request_line", "")
    assert row.read_text("request_line") == ""


def test_a_slot_with_two_processes_counts_once(board: Scoreboard) -> None:
    board.header.slots = 3
    board.seat(0, 0).state = State.IDLE
    board.seat(0, 1).state = State.BUSY
    board.seat(1, 1).state = State.IDLE
    board.seat(2, 0).state = State.BOOTING
    assert board.count_serving() == 2
