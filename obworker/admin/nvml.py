"""Reads the sensors of the GPUs through NVML, and writes the readings into shared memory.

Theory of operation. NVML leaves threads and open devices behind, so only this process loads it: it
never forks and serves no model. A driver that hangs blocks a call, so the calls are made on a
thread, and probes are answered meanwhile; readings that grow too old are no longer shown. Without
nvidia-ml-py or a driver the thread ends, and nothing is shown.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from obworker.supervisor.readings import Sensed, write
from obworker.supervisor.scoreboard import MAX_GPUS, Scoreboard

logger = logging.getLogger("obworker.admin")

INTERVAL = 2.0


def watch(board: Scoreboard) -> None:
    """Read the sensors again and again; return at once if NVML cannot be used."""
    pynvml = _start()
    while pynvml is not None:
        write(board, read(pynvml), time.monotonic())
        time.sleep(INTERVAL)


def read(pynvml: ModuleType) -> list[Sensed]:
    """Return a reading of each GPU, or of its MIG instances if it has any; at most MAX_GPUS."""
    count = _ask(pynvml, "nvmlDeviceGetCount") or 0
    found = (one for index in range(count) for one in _read_gpu(pynvml, index))
    return [one for one, _ in zip(found, range(MAX_GPUS), strict=False)]


def _start() -> ModuleType | None:
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
    except Exception as error:  # noqa: BLE001  # sensors are optional, whatever a driver raises
        logger.debug("no GPU is read: %s", error)
        return None
    return pynvml


def _read_gpu(pynvml: ModuleType, index: int) -> Iterator[Sensed]:
    handle = _ask(pynvml, "nvmlDeviceGetHandleByIndex", index)
    if handle is None:
        return
    name = _text(_ask(pynvml, "nvmlDeviceGetName", handle))
    celsius = _ask(pynvml, "nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU)
    for device in list(_instances(pynvml, handle)) or [handle]:
        memory = _ask(pynvml, "nvmlDeviceGetMemoryInfo", device)
        rates = _ask(pynvml, "nvmlDeviceGetUtilizationRates", device)
        yield Sensed(
            gpu=index,
            uuid=_text(_ask(pynvml, "nvmlDeviceGetUUID", device)),
            name=name,
            memory_used=None if memory is None else memory.used,
            memory_total=None if memory is None else memory.total,
            utilisation=None if rates is None else rates.gpu,
            temperature=celsius,
        )


def _instances(pynvml: ModuleType, handle: Any) -> Iterator[Any]:
    """Yield the MIG instances of a GPU; none if it is not in MIG mode."""
    mode = _ask(pynvml, "nvmlDeviceGetMigMode", handle)
    if mode and mode[0]:
        most = _ask(pynvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0
        by_index = "nvmlDeviceGetMigDeviceHandleByIndex"
        asked = (_ask(pynvml, by_index, handle, number) for number in range(most))
        yield from (instance for instance in asked if instance is not None)


def _ask(pynvml: ModuleType, question: str, *about: Any) -> Any:
    """Return the answer of an NVML function, None if there is none.

    Not every GPU has every sensor, nor every version of nvidia-ml-py every function; and versions
    that decode texts raise if those of the driver are not UTF-8.
    """
    try:
        return getattr(pynvml, question)(*about)
    except (pynvml.NVMLError, AttributeError, UnicodeDecodeError):
        return None


def _text(answer: str | bytes | None) -> str:
    """Return a text as str: old versions of nvidia-ml-py return bytes."""
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer or ""
