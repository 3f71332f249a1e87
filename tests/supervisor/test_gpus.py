"""Reading device lists, choosing from them, and dealing them out to slots."""

from __future__ import annotations

from pathlib import Path

import pytest

from obworker.errors import UsageError
from obworker.supervisor.gpus import (
    Device,
    assign,
    enumerate_gpus,
    parse_listing,
    parse_visible,
    select,
)

A, B = "GPU-aaaa", "GPU-bbbb"
M1, M2 = "MIG-1111", "MIG-2222"
VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (None, None),
        ("", []),
        ("  ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("void", []),
        ("0", ["0"]),
        ("2,1", ["2", "1"]),
        (" 2 , 1 ", ["2", "1"]),
        ("0,2,-1,1", ["0", "2"]),
        ("0,,1", ["0"]),
        ("0,x,1", ["0"]),
        ("1gpu2,2ampere", ["1", "2"]),
        ("+3", ["3"]),
        (A, [A]),
        (f"{A},{B}", [A, B]),
        (f"{A},1,{B}", [A]),
        (f"1,{A}", ["1"]),
        (f"{M1}", [M1]),
        (f"{M1},{M2}", [M1, M2]),
        (f"{M1},{A}", [M1]),
        (f"{A},{M1}", [A]),
        ("MIG-GPU-aaaa/1/0", ["MIG-GPU-aaaa/1/0"]),
        ("nonsense", []),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(value: str | None, tokens: list[str] | None) -> None:
    assert parse_visible(value) == tokens


@pytest.mark.parametrize("value", ["0,0", "0, 0", "1,2,1", f"{A},{A}", "1,+1", "1,1x"])
def test_a_device_that_comes_twice_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="twice; CUDA would see no GPU"):
        parse_visible(value)


@pytest.mark.parametrize(
    ("gpus", "environ", "machine", "devices"),
    [
        ("auto", {}, [], []),
        ("auto", {}, ["0", "1"], [Device("0", "PCI_BUS_ID"), Device("1", "PCI_BUS_ID")]),
        ("auto", {ORDER: "FASTEST_FIRST"}, ["0"], [Device("0", "FASTEST_FIRST")]),
        ("auto", {ORDER: ""}, ["0"], [Device("0", "PCI_BUS_ID")]),
        ("auto", {}, [M1, A], [Device(M1, "PCI_BUS_ID"), Device(A, "PCI_BUS_ID")]),
        ("auto", {VISIBLE: "3,1"}, None, [Device("3"), Device("1")]),
        ("auto", {VISIBLE: "3", ORDER: "PCI_BUS_ID"}, None, [Device("3", "PCI_BUS_ID")]),
        ("auto", {VISIBLE: f"{B},{A}"}, None, [Device(B), Device(A)]),
        ("auto", {VISIBLE: ""}, None, []),
        ("none", {}, None, []),
        ("none", {VISIBLE: "0,0"}, None, []),
        ("0", {VISIBLE: "3,1"}, None, [Device("3")]),
        ("1,0", {VISIBLE: "3,1"}, None, [Device("1"), Device("3")]),
        ("1", {}, ["0", "1"], [Device("1", "PCI_BUS_ID")]),
        (A, {VISIBLE: f"{B},{A}"}, None, [Device(A)]),
        (f"0,{A}", {VISIBLE: f"{B},{A}"}, None, [Device(B), Device(A)]),
        (M2, {VISIBLE: f"{M1},{M2}"}, None, [Device(M2)]),
        (f"{B},{A}", {}, ["0", "1"], [Device(B, "PCI_BUS_ID"), Device(A, "PCI_BUS_ID")]),
    ],
)
def test_devices_are_chosen_among_those_that_are_visible(
    gpus: str, environ: dict[str, str], machine: list[str] | None, devices: list[Device]
) -> None:
    def enumerate_() -> list[str]:
        assert machine is not None, "the machine was asked although the variable says it all"
        return machine

    assert select(gpus, environ, enumerate_) == devices


@pytest.mark.parametrize(
    ("gpus", "visible", "message"),
    [
        ("1", "0", "there is no GPU '1'; visible: 0"),
        ("0", "", "there is no GPU '0'; visible: none"),
        ("0", "-1", "there is no GPU '0'; visible: none"),
        ("7", "7", "there is no GPU '7'; visible: 7"),
        ("0,0", "0,1", "'0,0' names '0' twice"),
        (f"0,{A}", A, f"'0,{A}' names '{A}' twice"),
        (B, A, f"there is no GPU '{B}'; visible: {A}"),
        (B, "", f"there is no GPU '{B}'; visible: none"),
    ],
)
def test_a_choice_that_is_not_there_is_refused(gpus: str, visible: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        select(gpus, {VISIBLE: visible}, list)
    assert str(refused.value) == f"--gpus: {message}"


def letters(devices: list[Device]) -> str:
    return "".join(device.token or "-" for device in devices)


@pytest.mark.parametrize(
    ("devices", "workers", "per_gpu", "slots"),
    [
        ("", None, 1, "-"),
        ("", None, 3, "-"),
        ("", 3, 1, "---"),
        ("a", None, 1, "a"),
        ("ab", None, 1, "ab"),
        ("ab", None, 2, "abab"),
        ("ab", 1, 1, "a"),
        ("ab", 5, 1, "ababa"),
        ("ab", 5, 7, "ababa"),
        ("abc", 4, 1, "abca"),
    ],
)
def test_slot_i_has_device_i_modulo_their_number(
    devices: str, workers: int | None, per_gpu: int, slots: str
) -> None:
    assert letters(assign([Device(letter) for letter in devices], workers, per_gpu)) == slots


@pytest.mark.parametrize(
    ("device", "label", "environment"),
    [
        (Device(""), "cpu", {VISIBLE: "", "OBWORKER_DEVICES": ""}),
        (Device("3"), "gpu 3", {VISIBLE: "3", "OBWORKER_DEVICES": "3"}),
        (
            Device("3", "PCI_BUS_ID"),
            "gpu 3",
            {VISIBLE: "3", "OBWORKER_DEVICES": "3", ORDER: "PCI_BUS_ID"},
        ),
        (
            Device("GPU-0123abcd-rest"),
            "gpu GPU-0123abcd",
            {VISIBLE: "GPU-0123abcd-rest", "OBWORKER_DEVICES": "GPU-0123abcd-rest"},
        ),
    ],
)
def test_a_device_is_named_and_written_to_the_environment(
    device: Device, label: str, environment: dict[str, str]
) -> None:
    assert device.label == label
    assert device.environment == environment


LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111)
  MIG 3g.20gb     Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
"""


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("No devices found.\n", []),
        ("GPU 0: NVIDIA X (UUID: GPU-aaaa)\n", ["0"]),
        ("GPU 0: X (UUID: GPU-aaaa)\nGPU 1: NVIDIA (rev 2) (UUID: GPU-bbbb)\n", ["0", "1"]),
        (LISTING, [M1, M2, B]),
        (
            "GPU 0: A (UUID: GPU-aaaa)\n  MIG 1g.5gb Device 0: (UUID: MIG-GPU-aaaa/7/0)\n",
            ["MIG-GPU-aaaa/7/0"],
        ),
        ("GPU 10: NVIDIA X (UUID: GPU-aaaa)\n", ["10"]),
    ],
)
def test_a_listing_becomes_indices_or_with_mig_uuids(text: str, tokens: list[str]) -> None:
    assert parse_listing(text) == tokens


@pytest.fixture
def no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be no nvidia-smi."""
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))


@pytest.mark.usefixtures("no_tool")
@pytest.mark.parametrize(
    ("files", "tokens"),
    [
        ([], []),
        (["dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"], ["0", "1"]),
        (["dev/nvidia3"], ["0"]),
        (["proc/driver/nvidia/gpus/0000:01:00.0/information"], ["0"]),
        (
            [
                "proc/driver/nvidia/gpus/0000:01:00.0/information",
                "proc/driver/nvidia/gpus/0000:02:00.0/information",
                "dev/nvidia0",
            ],
            ["0", "1"],
        ),
    ],
)
def test_without_nvidia_smi_the_cards_are_counted(
    tmp_path: Path, files: list[str], tokens: list[str]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert enumerate_gpus(tmp_path) == tokens
