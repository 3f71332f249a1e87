"""What the master is to keep running, and with which resources."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obworker import cores
from obworker.environment import detect
from obworker.http.api_keys import ApiKeys
from obworker.settings import Settings
from obworker.supervisor import gpu_listing, gpus, topology
from obworker.supervisor.certificates import Certificates
from obworker.supervisor.gpus import Device
from obworker.supervisor.placement import Placement, place
from obworker.supervisor.slots import Timeouts
from obworker.supervisor.systemd import without_systemd
from obworker.supervisor.threads import Budget
from obworker.supervisor.visibility import Listing

# The addresses that the master listens on, which it has bound already.
FIXED = ("bind", "host", "port", "unix_mode", "admin_bind", "control_socket")
LEAST_FROZEN = 1.0
MOST_FROZEN = 30.0


@dataclass(frozen=True)
class Plan:
    """What to serve and how; `factory` names the function that a mold calls with `arguments`.

    `workers` is their number at the start. Slot i always has device i modulo the number of devices.
    `environ` is the environment of every process. `budget` divides native threads, `placement`
    cores. `api_keys` are packed. `given` has the keys of the options that were given explicitly.
    """

    label: str
    factory: str
    arguments: dict[str, Any]
    settings: Settings
    workers: int
    devices: list[Device]
    environ: dict[str, str]
    budget: Budget
    placement: Placement
    api_keys: list[str]
    certificates: Certificates
    given: frozenset[str] = frozenset()

    @classmethod
    def make(
        cls,
        settings: Settings,
        environ: Mapping[str, str],
        factory: str,
        given: Collection[str] = (),
        enumerate_: Callable[[], Listing] = gpu_listing.enumerate_gpus,
    ) -> Plan:
        """Work out what the settings mean on this machine, with `environ` as environment.

        Raises:
            UsageError: a requested GPU does not exist, GPUs cannot be divided as requested, a
                certificate cannot be used, or an API key file is invalid.
        """
        certificates = Certificates.of(settings)
        certificates.context()
        keys = ApiKeys.of(settings)
        chosen = gpus.select(settings.gpus, environ, enumerate_)
        devices = gpus.grouped(chosen, settings.gpus_per_worker)
        workers = settings.workers or gpus.default_workers(devices, settings.workers_per_gpu)
        ours = cores.available()
        budget = Budget.of(ours, environ, workers, settings.threads)
        return cls(
            label=str(settings.model),
            factory=factory,
            arguments=_arguments(settings, environ, budget, on_device=bool(chosen)),
            settings=settings,
            workers=workers,
            devices=devices,
            environ=without_systemd(environ),
            budget=budget,
            placement=_placement(settings.cpu_affinity, ours.allowed, devices, workers),
            api_keys=[] if keys is None else keys.pack(),
            certificates=certificates,
            given=frozenset(given),
        )

    def needs_restart(self, first: Settings) -> list[str]:
        """Return the settings that differ from the `first` ones and need a restart."""
        return [name for name in FIXED if getattr(self.settings, name) != getattr(first, name)]

    @property
    def timeouts(self) -> Timeouts:
        """How long a worker may stay in each state.

        An idle worker counts as frozen after the time that a request may take, within limits.
        """
        settings = self.settings
        return Timeouts(
            load=settings.load_timeout,
            boot=settings.boot_timeout,
            graceful=settings.graceful_timeout,
            frozen=min(max(settings.timeout or MOST_FROZEN, LEAST_FROZEN), MOST_FROZEN),
        )

    def device(self, slot: int) -> Device:
        """Return a slot's device."""
        return self.devices[slot % len(self.devices)]

    def environment(self, slot: int, workers: int) -> dict[str, str]:
        """Return the variables of a slot itself, if there are so many workers.

        Those of its devices come first.
        """
        threads = self.budget.worker_environ(self.pools(slot, workers))
        return self.device(slot).environment | threads | {"OBWORKER_SLOT": str(slot)}

    def pools(self, slot: int, workers: int) -> dict[str, int]:
        """Return how many threads each kind of native library in a slot is to have."""
        return self.budget.pools(workers, self.placement.room(slot, workers))

    def shares(self, workers: int) -> Iterator[tuple[str, str]]:
        """Yield how so many workers share the processors, as labelled lines for people."""
        yield "threads", self.budget.describe(workers)
        if self.placement.sets:
            yield "affinity", self.placement.describe(workers)


def _arguments(
    settings: Settings, environ: Mapping[str, str], budget: Budget, *, on_device: bool
) -> dict[str, Any]:
    """Return the arguments with which the factory makes the application."""
    may_spin = budget.may_spin(settings.onnx_threads)
    return {
        "path": str(Path(settings.model or "").absolute()),
        "class_name": settings.class_name,
        "model_path": settings.model_path,
        "environment": detect(environ).value,
        "tracebacks": settings.tracebacks,
        "onnx": settings.onnx | {"on_device": on_device, "may_spin": may_spin},
    }


def _placement(
    affinity: str, allowed: Iterable[int], devices: list[Device], workers: int
) -> Placement:
    if affinity == "none":
        return Placement()
    near = [topology.near_gpus(device.tokens) for device in devices]
    return place(topology.in_order(allowed), [near[slot % len(near)] for slot in range(workers)])
