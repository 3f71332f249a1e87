"""Which cores are neighbours, and which are near a GPU, according to sysfs.

Nothing here is needed to serve: what the kernel does not tell, or in an unknown form, is left out.
For sysfs see Documentation/admin-guide/cputopology.rst and ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from obworker.kernel_files import text_of

ROOT = Path("/")


def in_order(cores: Iterable[int], root: Path = ROOT) -> list[int]:
    """Sort cores so that those of a NUMA node, and therein of a physical core, are adjacent."""
    system = root / "sys/devices/system"
    node_of = {
        core: int(path.parent.name.removeprefix("node"))
        for path in system.glob("node/node[0-9]*/cpulist")
        for core in _read_list(path)
    }

    def place(core: int) -> tuple[int, int, int]:
        siblings = _read_list(system / f"cpu/cpu{core}/topology/thread_siblings_list")
        return node_of.get(core, 0), min(siblings, default=core), core

    return sorted(cores, key=place)


def near_gpus(tokens: Iterable[str], root: Path = ROOT) -> frozenset[int]:
    """Return the cores near any of some GPUs; none if they are not known.

    Tokens are from CUDA_VISIBLE_DEVICES; an index counts the GPUs in the order of the PCI bus. For
    a MIG instance, only the older form of its UUID says which GPU it is on.
    """
    addresses = _addresses(root)
    return frozenset[int]().union(*(_near(token, addresses, root) for token in tokens))


def _near(token: str, addresses: dict[str, str], root: Path) -> frozenset[int]:
    if token.isdecimal():
        found = list(addresses)[int(token) : int(token) + 1]
    else:
        wanted = token.removeprefix("MIG-").partition("/")[0]
        found = [
            address for address, uuid in addresses.items() if wanted and uuid.startswith(wanted)
        ]
    if len(found) != 1:
        return frozenset()
    return _read_list(root / "sys/bus/pci/devices" / found[0] / "local_cpulist")


def _addresses(root: Path) -> dict[str, str]:
    """Return the UUIDs of NVIDIA's GPUs by PCI address, in the order of addresses."""
    cards = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    return {card.parent.name.lower(): _uuid(card) for card in cards}


def _uuid(information: Path) -> str:
    found = re.search(r"^GPU UUID:\s*(\S+)", text_of(information), re.MULTILINE)
    return found[1] if found else ""


def _read_list(path: Path) -> frozenset[int]:
    """Parse a file with a list of cores: 0-3,8 (cpuset(7), "List format")."""
    cores: set[int] = set()
    for run in text_of(path).strip().split(","):
        if ends := re.fullmatch(r"(\d+)(?:-(\d+))?", run, re.ASCII):
            cores.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return frozenset(cores)
