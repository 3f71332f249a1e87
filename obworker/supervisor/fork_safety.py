"""Whether this process may be forked, and what is done before every fork.

A fork copies one thread only. Code in the child that waits for another thread, or for a lock that
another thread held, waits for ever: a thread pool of onnxruntime or OpenMP, a telemetry client. And
a CUDA context cannot be used in a child ("Cannot re-initialize CUDA in forked subprocess"). So the
mold checks what the import of the user's code, and then preload(), have left behind.

With threads.MOLD_PRESETS in the environment, a process that has imported numpy, scipy, torch and
onnxruntime has one thread, so any other thread is suspicious. Some are harmless: OpenBLAS ends its
threads before a fork and starts new ones after it (pthread_atfork(3)). libgomp does not, but can be
told to end its threads if they are idle.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import threadpoolctl

from obworker.kernel_files import text_of
from obworker.supervisor import linux

CUDA_LIBRARY = "libcuda.so.1"
# <cuda.h>: what cuDeviceGetCount returns as long as nobody has called cuInit.
CUDA_ERROR_NOT_INITIALIZED = 3
# Files that are opened for computing. /dev/nvidiactl and /dev/nvidia0 are opened by NVML, too, with
# which torch counts devices under PYTORCH_NVML_BASED_CUDA_CHECK, and it does not close them.
DEVICE_FILES = ("/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/render", "/dev/davinci")
# <omp.h>: omp_pause_soft, which keeps settings such as the number of threads.
OMP_PAUSE_SOFT = 1
LIBGOMP = re.compile(r"(/.*/libgomp[^/]*\.so[^/]*)$", re.MULTILINE)

LOADED_ONLY = os.RTLD_NOLOAD | os.RTLD_LAZY
# How long threads may take to end after they were told to.
SETTLE_TIMEOUT = 0.2
SETTLE_INTERVAL = 0.01


@dataclass(frozen=True)
class Facts:
    """What is in a process that may not survive a fork."""

    cuda: bool = False
    torch_cuda: bool = False
    device_files: tuple[str, ...] = ()
    python_threads: tuple[str, ...] = ()
    native_threads: tuple[str, ...] = ()
    """The names of threads that are not Python's; empty for those without a name of their own."""
    openblas_threads: int = 0
    """How many of the native threads belong to OpenBLAS."""


def judge(facts: Facts) -> list[str]:
    """Return the reasons why a process with these must not be forked; none if it may."""
    found = []
    if facts.cuda:
        found.append("CUDA is initialised")
    if facts.torch_cuda:
        found.append("torch.cuda is initialised")
    if facts.device_files:
        found.append(f"open device files: {', '.join(facts.device_files)}")
    if facts.python_threads:
        found.append(f"Python threads: {', '.join(facts.python_threads)}")
    unexplained = len(facts.native_threads) - facts.openblas_threads
    if unexplained > 0:
        found.append(_describe_native(unexplained, facts.native_threads))
    return found


def _describe_native(count: int, threads: tuple[str, ...]) -> str:
    what = "1 native thread" if count == 1 else f"{count} native threads"
    names = sorted({name for name in threads if name})
    return f"{what} ({', '.join(names)})" if names else what


def problems() -> list[str]:
    """Return the reasons why this process must not be forked; none if it may.

    For the thread that would fork. Thread pools that can be ended are ended first.
    """
    release_thread_pools()
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while (found := judge(_gather())) and time.monotonic() < deadline:
        time.sleep(SETTLE_INTERVAL)
    return found


def release_thread_pools() -> None:
    """Prepare for a fork: end idle thread pools, collect garbage, return free memory."""
    if threading.active_count() == 1:  # another thread may be inside one of its parallel regions
        _pause_libgomp()
    gc.collect()
    linux.trim_heap()


def _pause_libgomp() -> None:
    """End the threads of every libgomp that is loaded: wheels contain their own copies.

    libomp and libiomp5 handle forks themselves.
    """
    for path in sorted(set(LIBGOMP.findall(Path("/proc/self/maps").read_text()))):
        with contextlib.suppress(OSError, AttributeError):  # GCC 8 and before had no such call
            ctypes.CDLL(path, mode=LOADED_ONLY).omp_pause_resource_all(OMP_PAUSE_SOFT)


# gathering


def _gather() -> Facts:
    others = [t for t in threading.enumerate() if t is not threading.current_thread()]
    return Facts(
        cuda=_cuda_is_initialised(),
        torch_cuda=_torch_has_initialised_cuda(),
        device_files=_open_device_files(),
        python_threads=tuple(thread.name for thread in others),
        native_threads=_native_threads({thread.native_id for thread in others}),
        openblas_threads=_count_openblas_threads(),
    )


def _cuda_is_initialised() -> bool:
    """Ask the driver's library, if anything has loaded it."""
    try:
        library = ctypes.CDLL(CUDA_LIBRARY, mode=LOADED_ONLY)
    except OSError:
        return False
    count = ctypes.c_int()
    code: int = library.cuDeviceGetCount(ctypes.byref(count))
    return code != CUDA_ERROR_NOT_INITIALIZED


def _torch_has_initialised_cuda() -> bool:
    cuda = sys.modules.get("torch.cuda")
    return cuda is not None and bool(cuda.is_initialized())


def _open_device_files() -> tuple[str, ...]:
    opened = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            opened.add(str(descriptor.readlink()))
    return tuple(sorted(path for path in opened if path.startswith(DEVICE_FILES)))


def _native_threads(python: set[int | None]) -> tuple[str, ...]:
    """Return the names of all threads but this one and those of Python; see proc(5), comm.

    A thread inherits the name of the one that made it; such a name counts as none.
    """
    me = threading.get_native_id()
    inherited = _name_of(me)
    ids = {int(task.name) for task in Path("/proc/self/task").iterdir()} - python - {me}
    names = (_name_of(thread) for thread in sorted(ids))
    return tuple("" if name == inherited else name for name in names)


def _name_of(thread: int) -> str:
    return text_of(Path(f"/proc/self/task/{thread}/comm")).strip()


def _count_openblas_threads() -> int:
    """Return how many threads its pools have beside ours; OpenMP's are not counted."""
    return sum(
        pool["num_threads"] - 1
        for pool in threadpoolctl.threadpool_info()
        if pool["internal_api"] == "openblas" and pool["threading_layer"] == "pthreads"
    )
