"""How many native threads each worker may use, and the variables that say so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

# Read by OpenMP, OpenBLAS and MKL when they are loaded, and not later.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# A thread pool or a telemetry thread that exists at the fork hangs the workers. With these set
# before the import, numpy, torch and onnxruntime start none, and torch does not initialise CUDA
# when it is asked whether there is any.
MOLD_PRESETS = {
    **dict.fromkeys(VARIABLES, "1"),
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


@dataclass(frozen=True)
class Budget:
    """Threads for each worker, and what the mold and the workers find in their environment."""

    threads: int
    mold_environ: dict[str, str]
    worker_environ: dict[str, str]


def budget(environ: Mapping[str, str], workers: int) -> Budget:
    """Share the cores among the workers; what the user has set in `environ` stands."""
    chosen = environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0))
    threads = int(chosen) if chosen.isdecimal() and int(chosen) > 0 else max(1, cores // workers)
    presets = {name: value for name, value in MOLD_PRESETS.items() if name not in environ}
    return Budget(
        threads=threads,
        mold_environ=presets,
        worker_environ={name: str(threads) for name in VARIABLES if name in presets},
    )
