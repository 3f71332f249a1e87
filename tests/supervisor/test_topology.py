"""Which cores are neighbours and which are near a GPU, in trees as machines have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from obworker.supervisor.topology import in_order, near_gpus

A, B = "GPU-aaaaaaaa-1111", "GPU-bbbbbbbb-2222"
SYSTEM = "sys/devices/system"
CARD = "Model: \t\t NVIDIA H100\nGPU UUID: \t {}\nBus Location: \t {}\nDevice Minor: \t 0\n"

# Two sockets of two cores with two threads each, numbered as Intel's are.
TWO_SOCKETS = {
    f"{SYSTEM}/node/node0/cpulist": "0-1,4-5\n",
    f"{SYSTEM}/node/node1/cpulist": "2-3,6-7\n",
    **{
        f"{SYSTEM}/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}\n"
        for cpu in range(8)
    },
}
GPUS = {
    "proc/driver/nvidia/gpus/0000:C1:00.0/information": CARD.format(B, "0000:c1:00.0"),
    "proc/driver/nvidia/gpus/0000:41:00.0/information": CARD.format(A, "0000:41:00.0"),
    "sys/bus/pci/devices/0000:41:00.0/local_cpulist": "0-1,4-5\n",
    "sys/bus/pci/devices/0000:c1:00.0/local_cpulist": "2-3,6-7\n",
}


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores", "ordered"),
    [
        (TWO_SOCKETS, range(8), [0, 4, 1, 5, 2, 6, 3, 7]),
        (TWO_SOCKETS, [7, 5, 1], [1, 5, 7]),
        ({}, [3, 1, 2], [1, 2, 3]),
        ({f"{SYSTEM}/node/node0/cpulist": "what?\n"}, [1, 0], [0, 1]),
    ],
    ids=["all", "some", "nothing is known", "nothing is understood"],
)
def test_neighbours_come_together(
    tmp_path: Path, files: dict[str, str], cores: list[int], ordered: list[int]
) -> None:
    assert in_order(cores, write(tmp_path, files)) == ordered


@pytest.mark.parametrize(
    ("token", "cores"),
    [
        ("0", {0, 1, 4, 5}),
        ("1", {2, 3, 6, 7}),
        ("2", set()),
        (A, {0, 1, 4, 5}),
        ("GPU-bbbb", {2, 3, 6, 7}),
        ("GPU-", set()),
        ("GPU-cccc", set()),
        (f"MIG-{B}/7/0", {2, 3, 6, 7}),
        ("MIG-cccccccc-3333", set()),
        ("", set()),
    ],
)
def test_a_gpu_is_found_by_its_place_on_the_bus_or_its_uuid(
    tmp_path: Path, token: str, cores: set[int]
) -> None:
    assert near_gpus([token], write(tmp_path, GPUS)) == cores


def test_several_gpus_are_near_to_the_cores_of_each(tmp_path: Path) -> None:
    root = write(tmp_path, GPUS)
    assert near_gpus(["0", "1"], root) == near_gpus(["0"], root) | near_gpus(["1"], root)
    assert near_gpus(["1", "7"], root) == near_gpus(["1"], root)


def test_without_a_driver_no_core_is_near(tmp_path: Path) -> None:
    assert near_gpus(["0"], tmp_path) == frozenset()


def test_a_gpu_that_sysfs_does_not_know_is_near_to_none(tmp_path: Path) -> None:
    name = "proc/driver/nvidia/gpus/0000:41:00.0/information"
    assert near_gpus(["0"], write(tmp_path, {name: GPUS[name]})) == frozenset()
