"""How many native threads each worker may use, and how libraries are told.

The cores are divided among the workers. By default, a native library starts a thread for every core
of the machine in every worker. A library that is loaded in the worker reads its environment
variable; one that was loaded before the fork does not read it any more, and is set by a call.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import threadpoolctl

from obworker.cores import OPENMP, Cores, chosen_threads

# By threadpoolctl's name for a library, what it reads when it is loaded.
VARIABLES = {
    "openmp": OPENMP,
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
}

# Thread pools and telemetry threads that exist at a fork make workers hang. With these set before
# the import, numpy, torch and onnxruntime start no threads, and torch can be asked whether there is
# a GPU without initialising CUDA.
MOLD_PRESETS = {
    **dict.fromkeys(VARIABLES.values(), "1"),
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}

# Idle threads spin for a while, waiting for more work. If there are more threads than cores, that
# takes time from threads that work. libgomp and libomp read the first variable, OpenBLAS the
# second: the binary logarithm of a number of processor cycles, at least 4.
SLEEPY = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}


@dataclass(frozen=True)
class Budget:
    """How the cores are divided; `chosen` are numbers of threads that the user's environment sets.

    `named` are all our variables that it sets. `callers` is the planned number of threads, of all
    workers, that may call a library at once.
    """

    cores: Cores
    chosen: Mapping[str, int]
    named: frozenset[str]
    workers: int
    callers: int

    @classmethod
    def of(cls, cores: Cores, environ: Mapping[str, str], workers: int, calls: int) -> Budget:
        """Share the cores among `workers` that run `calls` at once; what `environ` sets stands."""
        chosen = {
            library: count
            for library, variable in VARIABLES.items()
            if (count := chosen_threads(environ.get(variable, "")))
        }
        named = frozenset(environ) & frozenset((*MOLD_PRESETS, *SLEEPY))
        return cls(cores, chosen, named, workers, workers * calls)

    def threads(self, workers: int) -> int:
        """Return each worker's share where there are so many workers."""
        return self.chosen.get("openmp") or max(1, int(self.cores.capacity / workers))

    def pools(self, workers: int, room: int | None = None) -> dict[str, int]:
        """Return how many threads each kind of library is to have, where there is `room`."""
        share = self.threads(workers)
        if room is not None and "openmp" not in self.chosen:
            share = min(share, room)
        return dict.fromkeys(VARIABLES, share) | dict(self.chosen)

    def may_spin(self, threads: int) -> bool:
        """Whether there is a core for every thread, where each call uses so many."""
        return self.callers * threads <= self.cores.capacity

    @property
    def mold_environ(self) -> dict[str, str]:
        """The variables of a process that imports the code to be forked."""
        return self._unless_named(MOLD_PRESETS | self._waiting)

    def worker_environ(self, pools: Mapping[str, int]) -> dict[str, str]:
        """Return what a process finds that serves with so many threads."""
        counts = {VARIABLES[library]: str(count) for library, count in pools.items()}
        return self._unless_named(counts | self._waiting)

    @property
    def _waiting(self) -> dict[str, str]:
        return {} if self.may_spin(self.threads(self.workers)) else SLEEPY

    def _unless_named(self, variables: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name not in self.named}

    def describe(self, workers: int) -> str:
        """Return what the start-up report says."""
        decided = f" by {OPENMP}" if "openmp" in self.chosen else ""
        who = "1 worker" if workers == 1 else f"{workers} workers"
        return f"{self.threads(workers)} each{decided}: {who} on {self.cores.description}"


def use(pools: Mapping[str, int]) -> None:
    """Give the libraries that are loaded so many threads each."""
    torch = sys.modules.get("torch")
    if torch is not None:  # it keeps a number of its own, which it also gives to new threads
        torch.set_num_threads(pools["openmp"])
    loaded = threadpoolctl.ThreadpoolController()
    for library, count in pools.items():
        loaded.select(internal_api=library).limit(limits=count)
