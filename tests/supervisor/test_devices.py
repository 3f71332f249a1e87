"""Devices that fail, as the master accounts for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from boards import NOW, scoreboard

from obworker.errors import DeviceError
from obworker.supervisor.devices import Devices
from obworker.supervisor.gpus import Device
from obworker.supervisor.quarantine import DURATION, DURATION_WITHOUT_OTHERS
from obworker.supervisor.scoreboard import Scoreboard
from obworker.supervisor.slots import Timeouts
from obworker.supervisor.table import Table


class Generations:
    """Plans in which slots share two devices, the same for each generation."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.tokens = "46"

    def plan(self, generation: int) -> Any:
        return SimpleNamespace(device=lambda slot: Device(self.tokens[slot % len(self.tokens)]))

    def fail_reload(self, reason: str) -> None:
        self.failures.append(reason)


class Case:
    """Three slots on two devices."""

    def __init__(self, board: Scoreboard) -> None:
        self.now = NOW
        self.board = board
        self.table = Table(3, Timeouts(), lambda: 0.5)
        self.generations = Generations()
        self.fatal: list[DeviceError] = []
        made: Any = self.generations
        self.devices = Devices(self.table, made, board, on_fatal=self.fatal.append)

    def fail(self, slot: int, times: int = 3) -> None:
        device, seat = self.generations.plan(1).device(slot), self.table.slots[slot].seats[0]
        for _ in range(times):
            seat.spawned_at = self.now = self.now + 1
            self.devices.failed(device, seat, "CUDA error", self.now)
        self.devices.publish()

    @property
    def held(self) -> list[bool]:
        """Which slots are held, for the table and for everybody."""
        held = [slot.quarantined for slot in self.table.slots]
        assert held == [bool(self.board.slot(index).quarantine) for index in range(3)]
        return held


@pytest.fixture
def case() -> Iterator[Case]:
    with scoreboard(3) as board:
        yield Case(board)


def test_all_slots_of_a_device_are_held_for_a_while(case: Case) -> None:
    case.fail(0, times=2)
    assert case.held == [False, False, False]
    case.fail(2, times=1)
    assert case.held == [True, False, True]
    case.devices.tend(case.now + DURATION - 1)
    assert case.held == [True, False, True]
    case.devices.tend(case.now + DURATION)
    case.devices.publish()
    assert case.held == [False, False, False]


def test_where_nobody_is_left_to_serve_devices_are_tried_again_soon(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    """Three requests that no kernel can bear would stop a service of one GPU for ten minutes."""
    case.table.rollout.ready(1)
    case.fail(0)
    case.fail(1)
    assert case.held == [True, True, True]
    assert case.board.slot(0).quarantined_until == case.now - 3 + DURATION_WITHOUT_OTHERS
    assert caplog.messages[-1] == (
        "nobody serves: every GPU is in quarantine; each is tried again after 60 s, or with a "
        "reload; nvidia-smi and the kernel's log (NVRM: Xid) say more"
    )
    case.devices.tend(case.now + DURATION_WITHOUT_OTHERS - 1)
    case.devices.publish()
    assert case.held == [False, True, False]
    assert case.board.slot(1).quarantined_until == case.now + DURATION


def test_workers_that_lose_a_device_at_once_are_one_failure_of_it(case: Case) -> None:
    for slot in (0, 2, 0):
        seat = case.table.slots[slot].seats[0]
        case.devices.failed(case.generations.plan(1).device(slot), seat, "CUDA error", NOW)
    case.devices.publish()
    assert case.held == [False, False, False]


def test_a_slot_that_was_never_filled_says_which_device_is_held(case: Case) -> None:
    case.fail(0)
    assert [case.board.slot(index).read_text("device") for index in range(3)] == [
        "gpu 4",
        "",
        "gpu 4",
    ]


def test_so_few_slots_that_all_are_held_are_too_few_while_another_serves(case: Case) -> None:
    assert not case.devices.forbid(1)
    case.fail(0)
    assert case.devices.forbid(1)
    assert not case.devices.forbid(2)
    case.fail(1)  # then nothing is lost by it
    assert not case.devices.forbid(1)


def test_slots_that_are_given_back_can_be_filled_at_once(case: Case) -> None:
    """A reload that found no slot to try its code in would take it for good."""
    case.fail(0)
    case.fail(1)
    assert not case.table.can_serve
    case.devices.give_back_all()
    assert case.table.can_serve


def test_one_line_says_all_to_whoever_is_woken(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.fail(0, times=5)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        "gpu 4 is in quarantine: it failed 3 times in 10 minutes, at last with CUDA error; "
        "it is not used for 10 minutes, or until a reload (slots: 0, 2)"
    )


def test_other_code_that_has_other_devices_is_not_held(case: Case) -> None:
    case.fail(0)
    case.generations.tokens = "57"
    case.devices.tend(NOW + 1)
    case.devices.publish()
    assert case.held == [False, False, False]


@pytest.mark.parametrize(
    ("is_proved", "candidate", "fatal", "failed"),
    [(False, None, 1, 0), (True, None, 0, 0), (True, 2, 0, 1)],
)
def test_without_a_device_a_start_or_a_reload_is_over_and_a_service_waits(
    case: Case, is_proved: bool, candidate: int | None, fatal: int, failed: int
) -> None:
    if is_proved:
        case.table.rollout.ready(1)
    case.fail(0)
    case.devices.tend(case.now)
    assert (case.fatal, case.generations.failures) == ([], [])
    case.fail(1)
    case.table.rollout.candidate = candidate
    case.devices.tend(case.now)
    assert (len(case.fatal), len(case.generations.failures)) == (fatal, failed)


def test_a_slot_without_a_device_has_none_to_blame(case: Case) -> None:
    seat = case.table.slots[0].seats[0]
    assert case.devices.is_to_blame(Device("4"), seat)
    assert not case.devices.is_to_blame(Device(""), seat)
