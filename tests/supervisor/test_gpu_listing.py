"""What a machine has, from its tools and its files."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from obworker.supervisor import gpu_listing, linux
from obworker.supervisor.gpu_listing import enumerate_gpus, parse_listing, until_found
from obworker.supervisor.visibility import ASCEND, CUDA, HIP, Listing

B = "GPU-bbbb"
M1, M2 = "MIG-1111", "MIG-2222"

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
    assert enumerate_gpus(tmp_path) == (CUDA, tokens)


def test_a_nvidia_smi_that_no_signal_ends_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    left: list[int] = []
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(gpu_listing, "NVIDIA_SMI_TIMEOUT", 0.1)
    monkeypatch.setattr(linux, "signal_process", lambda pid, _number: left.append(pid))
    begun = time.monotonic()
    assert enumerate_gpus(tmp_path) == (CUDA, [])
    assert time.monotonic() - begun < 30
    os.kill(left[0], signal.SIGKILL)
    os.waitpid(left[0], 0)


def add_node(root: Path, node: int, properties: str) -> None:
    """Add what the kernel's driver for AMD knows of a processor."""
    path = root / "sys/class/kfd/kfd/topology/nodes" / str(node) / "properties"
    path.parent.mkdir(parents=True)
    path.write_text(properties)


@pytest.mark.usefixtures("no_tool")
def test_of_amds_gpus_those_are_counted_whose_device_is_here(tmp_path: Path) -> None:
    add_node(tmp_path, 0, "cpu_cores_count 64\ndrm_render_minor 0\n")
    for node, minor in enumerate((128, 129, 130), 1):
        add_node(tmp_path, node, f"simd_count 304\ndrm_render_minor {minor}\n")
    (tmp_path / "dev/dri").mkdir(parents=True)
    for minor in (128, 130):
        (tmp_path / f"dev/dri/renderD{minor}").touch()
    assert enumerate_gpus(tmp_path) == (HIP, ["0", "1"])


@pytest.mark.usefixtures("no_tool")
def test_ascends_npus_are_counted(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("davinci0", "davinci5", "davinci_manager"):
        (tmp_path / "dev" / name).touch()
    assert enumerate_gpus(tmp_path) == (ASCEND, ["0", "1"])


def test_the_machine_is_asked_until_it_has_gpus() -> None:
    answers = [Listing(CUDA, []), Listing(CUDA, ["0", "1"])]
    listing = until_found(iter(answers).__next__)
    assert [listing() for _ in range(3)] == [answers[0], answers[1], answers[1]]
