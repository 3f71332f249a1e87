"""Which GPUs this machine has, found without a driver library.

NVML or CUDA in this process would leave state behind that a fork cannot use. So nvidia-smi is run,
or the kernel's files are counted.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from obworker.kernel_files import text_of
from obworker.supervisor import linux
from obworker.supervisor.visibility import ASCEND, CUDA, HIP, Listing

NVIDIA_SMI_TIMEOUT = 10.0


def enumerate_gpus(root: Path = Path("/")) -> Listing:
    """Return NVIDIA's GPUs in PCI bus order, else AMD's, else Ascend's NPUs."""
    listed = _ask_nvidia_smi()
    if listed is None:
        listed = _indices(_count_nvidia(root))
    if listed:
        return Listing(CUDA, listed)
    if amd := _count_amd(root):
        return Listing(HIP, _indices(amd))
    if ascend := _count_numbered(root, "davinci"):
        return Listing(ASCEND, _indices(ascend))
    return Listing(CUDA, [])


def until_found(enumerate_: Callable[[], Listing] = enumerate_gpus) -> Callable[[], Listing]:
    """Return a function that does the same, but keeps the first listing that has GPUs.

    Once workers serve on them, the caller must not wait for a driver that hangs.
    """
    known: list[Listing] = []

    def listing() -> Listing:
        if not (known and known[-1].tokens):
            known.append(enumerate_())
        return known[-1]

    return listing


def _indices(count: int) -> list[str]:
    return [str(index) for index in range(count)]


def _count_nvidia(root: Path) -> int:
    cards = len(list(root.glob("proc/driver/nvidia/gpus/*/information")))
    return cards or _count_numbered(root, "nvidia")


def _count_numbered(root: Path, name: str) -> int:
    """Count /dev/NAME0 and so on, and not /dev/NAMEctl."""
    return sum(path.name.removeprefix(name).isdecimal() for path in root.glob(f"dev/{name}*"))


def _count_amd(root: Path) -> int:
    """Count the GPU nodes of the kernel's topology whose device file exists here.

    The topology also has the CPUs and, in a container, all GPUs of the machine.
    """
    return sum(
        (root / "dev/dri" / f"renderD{minor}").exists()
        for path in root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")
        if (minor := _render_minor(path)) > 0
    )


def _render_minor(properties: Path) -> int:
    found = re.search(r"^drm_render_minor (\d+)$", text_of(properties), re.MULTILINE)
    return int(found[1]) if found else 0


def _ask_nvidia_smi() -> list[str] | None:
    """Return what `nvidia-smi -L` lists (see parse_listing), None if it fails."""
    try:
        process = subprocess.Popen(
            ["nvidia-smi", "-L"],  # noqa: S607 its directory differs between machines
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            errors="replace",
        )
    except OSError:
        return None
    assert process.stdout is not None
    with process.stdout:
        try:
            text, _ = process.communicate(timeout=NVIDIA_SMI_TIMEOUT)
        except subprocess.TimeoutExpired:
            _give_up(process)
            return None
    return None if process.returncode else parse_listing(text)


def _give_up(process: subprocess.Popen[str]) -> None:
    """Kill a program without waiting for its end: in a hanging driver, no signal wakes it."""
    linux.signal_process(process.pid, signal.SIGKILL)
    process.returncode = -signal.SIGKILL  # the master reaps it with its orphans


def parse_listing(text: str) -> list[str]:
    """Read ``nvidia-smi -L``: GPU indices, but for a GPU in MIG mode the UUIDs of its instances.

    Indices and MIG UUIDs cannot be mixed in one list, so if any GPU is in MIG mode, all are UUIDs.
    """
    gpus: list[tuple[str, str, list[str]]] = []
    for line in text.splitlines():
        if gpu := re.match(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)", line):
            gpus.append((gpu[1], gpu[2], []))
        elif (instance := re.search(r"\(UUID: (MIG-[^)]+)\)", line)) and gpus:
            gpus[-1][2].append(instance[1])
    if not any(instances for _, _, instances in gpus):
        return [index for index, _, _ in gpus]
    return [token for _, uuid, instances in gpus for token in (instances or [uuid])]
