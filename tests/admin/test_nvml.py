"""What NVML says, on its way to people: read, through shared memory, to the slots it is about."""

from __future__ import annotations

import pytest
import stub_nvml
from boards import NOW, scoreboard
from stub_nvml import GIB

from obworker.admin.nvml import read
from obworker.supervisor.readings import STALE_AFTER, Sensed, readings, write

FIRST = Sensed(0, "GPU-aaaaaaaa-0000", "NVIDIA X", 12 * GIB, 16 * GIB, 97, 61)
INSTANCE = Sensed(1, "MIG-1111-0000", "NVIDIA X", 3 * GIB, 16 * GIB, None, 48)


def test_gpus_are_read_or_their_instances_and_not_those_that_fail() -> None:
    assert read(stub_nvml) == [FIRST, INSTANCE]


def test_a_driver_that_fails_altogether_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise stub_nvml.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(stub_nvml, "nvmlDeviceGetCount", fail)
    assert read(stub_nvml) == []


def undecodable(_handle: object) -> str:
    """Answer as a recent nvidia-ml-py does where a driver's text is no UTF-8."""
    return b"NVIDIA \xff".decode()


def test_a_text_that_is_no_utf_8_ends_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub_nvml, "nvmlDeviceGetName", lambda _handle: b"NVIDIA \xff")
    assert [gpu.name for gpu in read(stub_nvml)] == ["NVIDIA \ufffd"] * 2
    monkeypatch.setattr(stub_nvml, "nvmlDeviceGetName", undecodable)
    assert read(stub_nvml) == [FIRST._replace(name=""), INSTANCE._replace(name="")]


def test_what_an_old_library_does_not_know_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(stub_nvml, "nvmlDeviceGetMigMode")
    assert [gpu.uuid for gpu in read(stub_nvml)] == ["GPU-aaaaaaaa-0000", "GPU-bbbbbbbb-0000"]


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        (["gpu 0"], [(FIRST, [0])]),
        (["gpu 0", "cpu", "gpu 0"], [(FIRST, [0, 2])]),
        (["gpu GPU-aaaaaaaa"], [(FIRST, [0])]),
        (["gpu MIG-1111-000", "gpu 0"], [(FIRST, [1]), (INSTANCE, [0])]),
        (["gpu 0,7", "gpu 7"], [(FIRST, [0])]),
        (["gpu 3,GPU-aaaaaaaa"], [(FIRST, [0])]),
        (["cpu"], []),
        ([""], []),
        (["gpu 7"], []),
        (["gpu GPU-cccccccc"], []),
    ],
)
def test_a_reading_is_shown_with_the_slots_that_have_the_gpu(
    devices: list[str], found: list[tuple[Sensed, list[int]]]
) -> None:
    with scoreboard(len(devices)) as board:
        for slot, device in enumerate(devices):
            board.slot(slot).write_text("device", device)
        write(board, [FIRST, INSTANCE], NOW)
        assert list(readings(board, NOW + 1)) == found


def test_what_is_old_or_gone_is_not_shown() -> None:
    with scoreboard(1) as board:
        board.slot(0).write_text("device", "gpu 0")
        write(board, [FIRST], NOW)
        assert list(readings(board, NOW + STALE_AFTER)) == []
        write(board, [FIRST], NOW + 1)
        assert list(readings(board, NOW + STALE_AFTER)) == [(FIRST, [0])]
        write(board, [], NOW + 2)
        assert list(readings(board, NOW + 2)) == []
