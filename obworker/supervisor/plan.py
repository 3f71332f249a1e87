"""What the master is told to keep running."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obworker.settings import Settings
from obworker.supervisor.gpus import Device


@dataclass(frozen=True)
class Plan:
    """What to serve and how; `factory` names the function that a mold calls with `arguments`.

    `devices` has one entry for each slot. `environ` is for the mold; what `worker_environ` adds is
    for workers alone. `threads` is each worker's share of the cores.
    """

    label: str
    factory: str
    arguments: dict[str, Any]
    settings: Settings
    devices: list[Device]
    environ: dict[str, str]
    worker_environ: dict[str, str]
    threads: int
    lent: bool = False
