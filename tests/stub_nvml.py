"""A stub of pynvml for a machine with three GPUs: a usual one, one in MIG mode, one that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

NVML_TEMPERATURE_GPU = 0
GIB = 1 << 30


class NVMLError(Exception):
    pass


class Device(NamedTuple):
    uuid: str
    used: int = 0
    rate: int | None = None
    celsius: int | None = None
    instances: tuple[Device, ...] = ()


DEVICES = (
    Device("GPU-aaaaaaaa-0000", 12 * GIB, 97, 61),
    Device("GPU-bbbbbbbb-0000", 1, 5, 48, (Device("MIG-1111-0000", 3 * GIB),)),
    None,
)


def nvmlInit() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return len(DEVICES)


def nvmlDeviceGetHandleByIndex(index: int) -> Device:
    device = DEVICES[index]
    if device is None:
        raise NVMLError("GPU is lost")
    return device


def nvmlDeviceGetName(handle: Device) -> bytes:
    return b"NVIDIA X"


def nvmlDeviceGetUUID(handle: Device) -> str:
    return handle.uuid


def nvmlDeviceGetMemoryInfo(handle: Device) -> SimpleNamespace:
    return SimpleNamespace(used=handle.used, total=16 * GIB)


def nvmlDeviceGetUtilizationRates(handle: Device) -> SimpleNamespace:
    return SimpleNamespace(gpu=_known(handle.rate), memory=0)


def nvmlDeviceGetTemperature(handle: Device, sensor: int) -> int:
    return _known(handle.celsius)


def nvmlDeviceGetMigMode(handle: Device) -> list[int]:
    if not handle.instances:
        raise NVMLError("Not Supported")
    return [1, 1]


def nvmlDeviceGetMaxMigDeviceCount(handle: Device) -> int:
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle: Device, index: int) -> Device:
    if index >= len(handle.instances):
        raise NVMLError("Not Found")
    return handle.instances[index]


def _known(number: int | None) -> int:
    if number is None:
        raise NVMLError("Not Supported")
    return number
