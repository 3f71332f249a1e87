"""What the master is told to keep running."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obworker.environment import detect
from obworker.http.api_keys import ApiKeys
from obworker.settings import Settings
from obworker.supervisor import gpu_listing, gpus, threads
from obworker.supervisor.certificates import tls_context
from obworker.supervisor.gpus import Device
from obworker.supervisor.systemd import without_systemd


@dataclass(frozen=True)
class Plan:
    """What to serve and how; `factory` names the function that a mold calls with `arguments`.

    `devices` has one entry for each of the slots there are at the start. `environ` is what every
    process finds; `mold_environ` adds to it where the code is imported to be forked, and
    `worker_environ` where it serves. `threads` is each worker's share of the cores. `api_keys` are
    packed.
    """

    label: str
    factory: str
    arguments: dict[str, Any]
    settings: Settings
    devices: list[Device]
    environ: dict[str, str]
    mold_environ: dict[str, str]
    worker_environ: dict[str, str]
    threads: int
    api_keys: list[str]

    @classmethod
    def make(cls, settings: Settings, environ: Mapping[str, str], factory: str) -> Plan:
        """Work out what the settings come to on this machine, with `environ` as environment.

        Raises:
            UsageError: a GPU that is asked for is not there, a certificate cannot be used, or an
                API key file is not right.
        """
        tls_context(settings)
        keys = ApiKeys.of(settings)
        chosen = gpus.select(settings.gpus, environ, gpu_listing.enumerate_gpus)
        devices = gpus.assign(chosen, settings.workers, settings.workers_per_gpu)
        budget = threads.budget(environ, len(devices))
        return cls(
            label=str(settings.model),
            factory=factory,
            arguments={
                "path": str(Path(settings.model or "").absolute()),
                "class_name": settings.class_name,
                "model_path": settings.model_path,
                "environment": detect(environ).value,
                "onnx": settings.onnx | {"on_device": bool(chosen)},
            },
            settings=settings,
            devices=devices,
            environ=without_systemd(environ),
            mold_environ=budget.mold_environ,
            worker_environ=budget.worker_environ,
            threads=budget.threads,
            api_keys=[] if keys is None else keys.pack(),
        )

    def device(self, slot: int) -> Device:
        """Return a slot's device; slots that are added later share those there are."""
        return self.devices[slot % len(self.devices)]

    def environment(self, slot: int) -> dict[str, str]:
        """Return the variables that are a slot's own: its devices first."""
        return self.device(slot).environment | self.worker_environ | {"OBWORKER_SLOT": str(slot)}
