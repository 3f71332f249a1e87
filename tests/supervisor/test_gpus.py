"""Choosing devices, and dealing them out to slots."""

from __future__ import annotations

import pytest

from obworker.errors import UsageError
from obworker.supervisor.gpus import Device, default_workers, grouped, select
from obworker.supervisor.visibility import ASCEND, CUDA, HIP, ROCR, Family, Listing

A, B = "GPU-aaaa", "GPU-bbbb"
M1, M2 = "MIG-1111", "MIG-2222"
VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
OTHERS = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")


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
    def enumerate_() -> Listing:
        assert machine is not None, "the machine was asked although the variable says it all"
        return Listing(CUDA, machine)

    assert select(gpus, environ, enumerate_) == devices


def unasked() -> Listing:
    raise AssertionError("the machine was asked although the variable says it all")


@pytest.mark.parametrize(
    ("environ", "gpus", "written"),
    [
        ({"HIP_VISIBLE_DEVICES": "3,1"}, "1", {"HIP_VISIBLE_DEVICES": "1"}),
        ({"ROCR_VISIBLE_DEVICES": f"2,{A}"}, "1", {"ROCR_VISIBLE_DEVICES": A}),
        # HIP's counts what ROCr's leaves, which stays as it is
        (
            {"HIP_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "4,5"},
            "1",
            {"HIP_VISIBLE_DEVICES": "1"},
        ),
        # HIP reads its own variable before CUDA's
        (
            {VISIBLE: "0,1", "HIP_VISIBLE_DEVICES": "0,1"},
            "1",
            {VISIBLE: "1", "HIP_VISIBLE_DEVICES": "1"},
        ),
        ({"ASCEND_RT_VISIBLE_DEVICES": "4,6"}, "1", {"ASCEND_RT_VISIBLE_DEVICES": "6"}),
        ({"ASCEND_RT_VISIBLE_DEVICES": "4,6", ORDER: ""}, "0", {"ASCEND_RT_VISIBLE_DEVICES": "4"}),
    ],
)
def test_a_device_is_written_to_the_variable_that_named_it(
    environ: dict[str, str], gpus: str, written: dict[str, str]
) -> None:
    (device,) = select(gpus, environ, unasked)
    assert device.environment == {**written, "OBWORKER_DEVICES": device.token}


@pytest.mark.parametrize(
    ("family", "written", "label"),
    [
        (HIP, {"HIP_VISIBLE_DEVICES": "0", "OBWORKER_DEVICES": "0"}, "gpu 0"),
        (ROCR, {"ROCR_VISIBLE_DEVICES": "0", "OBWORKER_DEVICES": "0"}, "gpu 0"),
        (ASCEND, {"ASCEND_RT_VISIBLE_DEVICES": "0", "OBWORKER_DEVICES": "0"}, "npu 0"),
    ],
)
def test_a_machine_of_another_vendor_is_told_in_its_own_variable(
    family: Family, written: dict[str, str], label: str
) -> None:
    (device,) = select("auto", {}, lambda: Listing(family, ["0"]))
    assert (device.environment, device.label) == (written, label)


def test_an_ascend_device_has_no_uuid() -> None:
    with pytest.raises(UsageError, match="there is no GPU"):
        select(A, {"ASCEND_RT_VISIBLE_DEVICES": "0"}, unasked)


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
        (f"{A},1", "0,1", f"'{A},1' has indices and UUIDs; CUDA takes one kind"),
    ],
)
def test_a_choice_that_is_not_there_is_refused(gpus: str, visible: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        select(gpus, {VISIBLE: visible}, unasked)
    assert str(refused.value) == f"--gpus: {message}"


@pytest.mark.parametrize(
    ("devices", "per_gpu", "workers"),
    [("", 1, 1), ("", 3, 1), ("a", 1, 1), ("ab", 1, 2), ("ab", 2, 4)],
)
def test_there_is_a_worker_for_each_gpu_or_more_and_one_without(
    devices: str, per_gpu: int, workers: int
) -> None:
    groups = grouped([Device(letter) for letter in devices], 1)
    assert default_workers(groups, per_gpu) == workers


@pytest.mark.parametrize(
    ("devices", "size", "groups"),
    [
        ("", 1, [""]),
        ("", 0, [""]),
        ("", 2, [""]),  # --gpus none, or a machine that has none: all serve without
        ("ab", 1, ["a", "b"]),
        ("ab", 2, ["a,b"]),
        ("abcd", 2, ["a,b", "c,d"]),
        ("abc", 0, ["a,b,c"]),
        ("a", 0, ["a"]),
    ],
)
def test_devices_are_put_together_for_workers_that_need_several(
    devices: str, size: int, groups: list[str]
) -> None:
    together = grouped([Device(letter, "PCI_BUS_ID") for letter in devices], size)
    assert together == [Device(group, "PCI_BUS_ID" if group else None) for group in groups]


@pytest.mark.parametrize(("count", "size"), [(1, 2), (2, 4), (3, 2)])
def test_devices_are_not_put_together_where_some_would_be_left_over(count: int, size: int) -> None:
    with pytest.raises(UsageError) as refused:
        grouped([Device(str(index)) for index in range(count)], size)
    assert str(refused.value).startswith(
        f"--gpus-per-worker: {count} GPUs cannot be dealt out by {size};"
    )


def test_ascend_devices_that_are_put_together_ascend() -> None:
    chosen = select("2,0", {"ASCEND_RT_VISIBLE_DEVICES": "4,6,10"}, unasked)
    assert [device.token for device in grouped(chosen, 0)] == ["4,10"]


@pytest.mark.parametrize(
    ("device", "label", "environment"),
    [
        (Device(""), "cpu", {VISIBLE: "", "OBWORKER_DEVICES": "", **dict.fromkeys(OTHERS, "-1")}),
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
        (Device("3,1"), "gpu 3,1", {VISIBLE: "3,1", "OBWORKER_DEVICES": "3,1"}),
        (
            Device("GPU-0123abcd-rest,GPU-4567abcd-rest"),
            "gpu GPU-0123abcd,GPU-4567abcd",
            {
                VISIBLE: "GPU-0123abcd-rest,GPU-4567abcd-rest",
                "OBWORKER_DEVICES": "GPU-0123abcd-rest,GPU-4567abcd-rest",
            },
        ),
        # two instances of one GPU have names of their own, by which one may be in quarantine
        (
            Device("MIG-GPU-0123abcd-rest/7/0"),
            "gpu MIG-GPU-0123abcd-rest/7/0",
            {
                VISIBLE: "MIG-GPU-0123abcd-rest/7/0",
                "OBWORKER_DEVICES": "MIG-GPU-0123abcd-rest/7/0",
            },
        ),
    ],
)
def test_a_device_is_named_and_written_to_the_environment(
    device: Device, label: str, environment: dict[str, str]
) -> None:
    assert device.label == label
    assert device.environment == environment
