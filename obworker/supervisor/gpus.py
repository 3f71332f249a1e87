"""Which GPU belongs to which slot.

All but `enumerate_gpus` is pure. No CUDA and no NVML library enters this process: either would
leave state behind that a fork cannot use. CUDA_VISIBLE_DEVICES is read as CUDA reads it (CUDA
Programming Guide, "CUDA Environment Variables").
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from obworker.errors import UsageError

VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER_VARIABLE = "CUDA_DEVICE_ORDER"
# Values that schedulers and container runtimes use to say "none".
NO_DEVICES = frozenset(("", "-1", "nodevfiles", "none", "void"))
UUID_PREFIXES = ("GPU-", "MIG-")
NVIDIA_SMI_TIMEOUT = 10.0


@dataclass(frozen=True)
class Device:
    """What one slot may see: the value of CUDA_VISIBLE_DEVICES, empty for none."""

    token: str
    order: str | None = None

    @property
    def label(self) -> str:
        """What titles and logs call it."""
        if not self.token:
            return "cpu"
        return (
            f"gpu {self.token[:12]}"
            if self.token.startswith(UUID_PREFIXES)
            else f"gpu {self.token}"
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables that hold a worker to it."""
        variables = {VARIABLE: self.token, "OBWORKER_DEVICES": self.token}
        return variables | ({ORDER_VARIABLE: self.order} if self.order else {})


def parse_visible(value: str | None) -> list[str] | None:
    """Read CUDA_VISIBLE_DEVICES: None for all devices, else tokens as CUDA would use them.

    CUDA takes tokens up to the first it cannot use, and none at all where one comes twice.

    Raises:
        UsageError: a token comes twice.
    """
    if value is None:
        return None
    if value.strip().lower() in NO_DEVICES:
        return []
    tokens: list[str] = []
    for token in _usable(value):
        if token in tokens:
            raise UsageError(f"{VARIABLE}: {value!r} names {token!r} twice; CUDA would see no GPU")
        tokens.append(token)
    return tokens


def _usable(value: str) -> Iterator[str]:
    written = [token.strip() for token in value.split(",")]
    prefix = next((p for p in UUID_PREFIXES if written[0].startswith(p)), None)
    for token in written:
        if prefix is not None and token.startswith(prefix):
            yield token
        elif prefix is None and (number := re.match(r"\+?(\d+)", token)):
            yield number[1]
        else:
            return


def select(
    gpus: str, environ: Mapping[str, str], enumerate_: Callable[[], list[str]]
) -> list[Device]:
    """Return the devices to use, from the option ``--gpus`` and what is visible.

    Indices in the option count what CUDA_VISIBLE_DEVICES leaves visible. Tokens that were in that
    variable are kept to the letter. What we enumerate ourselves is in PCI bus order, and CUDA is
    told so.

    Raises:
        UsageError: a device is not there, or comes twice.
    """
    if gpus == "none":
        return []
    visible = parse_visible(environ.get(VARIABLE))
    order = environ.get(ORDER_VARIABLE)
    if visible is None:
        visible = enumerate_()
        order = order or "PCI_BUS_ID"
    chosen = visible if gpus == "auto" else _pick(gpus, visible)
    return [Device(token, order) for token in chosen]


def _pick(gpus: str, visible: list[str]) -> list[str]:
    chosen: list[str] = []
    for token in gpus.split(","):
        token = _find(token, visible)
        if token in chosen:
            raise UsageError(f"--gpus: {gpus!r} names {token!r} twice")
        chosen.append(token)
    return chosen


def _find(token: str, visible: list[str]) -> str:
    """Return the visible device that a token of the option means."""
    if token.isdecimal():
        matches = visible[int(token) : int(token) + 1]
    elif visible and not visible[0].startswith(UUID_PREFIXES):
        return token  # visible by index: CUDA will know the UUID, we do not
    else:
        matches = [device for device in visible if device.startswith(token)]
    if len(matches) != 1:
        wrong = "there is more than one GPU" if matches else "there is no GPU"
        raise UsageError(f"--gpus: {wrong} {token!r}; visible: {', '.join(visible) or 'none'}")
    return matches[0]


def assign(devices: list[Device], workers: int | None, per_gpu: int) -> list[Device]:
    """Return each slot's device: slot i has device i modulo their number, for ever.

    Without a GPU every slot sees none, so that nobody takes the first one by chance.
    """
    if not devices:
        return [Device("")] * (workers or 1)
    return [devices[i % len(devices)] for i in range(workers or len(devices) * per_gpu)]


def enumerate_gpus(root: Path = Path("/")) -> list[str]:
    """Count the GPUs of this machine, in PCI bus order, without loading a driver library."""
    listed = _ask_nvidia_smi()
    if listed is not None:
        return listed
    cards = len(list(root.glob("proc/driver/nvidia/gpus/*/information")))
    cards = cards or len([p for p in root.glob("dev/nvidia*") if p.name[6:].isdecimal()])
    return [str(index) for index in range(cards)]


def _ask_nvidia_smi() -> list[str] | None:
    """Return indices, or the UUIDs of MIG instances where the machine has any."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-L"],  # noqa: S607 where it lies differs between machines
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_listing(answer.stdout)


def parse_listing(text: str) -> list[str]:
    """Read ``nvidia-smi -L``: GPU indices, but for a GPU in MIG mode its instances' UUIDs.

    Indices and MIG UUIDs cannot be mixed in one list, so with MIG anywhere all are UUIDs.
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
