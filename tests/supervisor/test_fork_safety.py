"""What the import of a predictor may leave behind, and what forbids a fork."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

from obworker.supervisor.fork_safety import Facts, judge
from obworker.supervisor.threads import MOLD_PRESETS

VERDICTS = {
    "nothing": (Facts(), []),
    "CUDA": (Facts(cuda=True), ["CUDA is initialised"]),
    "torch.cuda": (Facts(torch_cuda=True), ["torch.cuda is initialised"]),
    "device files": (
        Facts(device_files=("/dev/kfd", "/dev/nvidia-uvm")),
        ["open device files: /dev/kfd, /dev/nvidia-uvm"],
    ),
    "Python threads": (
        Facts(python_threads=("metrics", "Thread-1")),
        ["Python threads: metrics, Thread-1"],
    ),
    "a thread without a name": (Facts(native_threads=("",)), ["1 native thread"]),
    "threads with names": (
        Facts(native_threads=("grpc_global_tim", "", "tokio", "tokio")),
        ["4 native threads (grpc_global_tim, tokio)"],
    ),
    "OpenBLAS alone": (Facts(native_threads=("", ""), openblas_threads=2), []),
    "OpenBLAS that runs fewer than it says": (Facts(native_threads=("",), openblas_threads=3), []),
    "others beside OpenBLAS": (
        Facts(native_threads=("", "", ""), openblas_threads=2),
        ["1 native thread"],
    ),
    "everything": (
        Facts(True, True, ("/dev/kfd",), ("metrics",), ("tokio",), 0),
        [
            "CUDA is initialised",
            "torch.cuda is initialised",
            "open device files: /dev/kfd",
            "Python threads: metrics",
            "1 native thread (tokio)",
        ],
    ),
}


@pytest.mark.parametrize(("facts", "problems"), VERDICTS.values(), ids=VERDICTS)
def test_a_verdict_says_why(facts: Facts, problems: list[str]) -> None:
    assert judge(facts) == problems


def run(code: str, **environ: str) -> str:
    """Run code in a fresh interpreter that has what a mold finds in its environment."""
    done = subprocess.run(
        [sys.executable, "-c", f"from obworker.supervisor import fork_safety\n{code}"],
        env={**os.environ, **MOLD_PRESETS, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def problems_after(code: str, **environ: str) -> list[str]:
    # it ends as workers do: a finaliser may hang, which is what this is about
    tell = "import os, sys; print(*fork_safety.problems(), sep='\\n'); sys.stdout.flush()"
    return run(f"{code}\n{tell}; os._exit(0)", **environ).splitlines()


MODEL = str(ROOT / "examples/digits/digits.onnx")
SESSION = f"""
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {{threads}}
session = onnxruntime.InferenceSession({MODEL!r}, options)
"""

THREAD = """
import threading
stop = threading.Event()
threading.Thread(target=stop.wait, daemon=True, name="metrics").start()
"""

TORCH = """
import sys, types
sys.modules["torch.cuda"] = types.SimpleNamespace(is_initialized=lambda: {answer})
"""

SCENARIOS = {
    "nothing": ("", []),
    "numpy": ("import numpy", []),
    "onnxruntime": ("import onnxruntime", []),
    "a session without a pool": (SESSION.format(threads=1), []),
    "a session with a pool": (SESSION.format(threads=2), ["1 native thread"]),
    "a Python thread": (THREAD, ["Python threads: metrics"]),
    "torch that has not used CUDA": (TORCH.format(answer=False), []),
    "torch that has used CUDA": (TORCH.format(answer=True), ["torch.cuda is initialised"]),
    "a device file": (
        "fork_safety.DEVICE_FILES = ('/dev/full',); file = open('/dev/full')",
        ["open device files: /dev/full"],
    ),
    "another device file": ("fork_safety.DEVICE_FILES = ('/dev/full',); open('/dev/null')", []),
}


@pytest.mark.parametrize(("code", "problems"), SCENARIOS.values(), ids=SCENARIOS)
def test_what_an_import_left_behind_is_seen(code: str, problems: list[str]) -> None:
    assert problems_after(code) == problems


@pytest.mark.skipif(os.cpu_count() == 1, reason="OpenBLAS makes no thread on one core")
def test_threads_of_openblas_are_no_reason() -> None:
    code = "import numpy, os\nassert len(os.listdir('/proc/self/task')) == 2"
    assert problems_after(code, OPENBLAS_NUM_THREADS="2") == []


def test_a_thread_that_ends_in_time_is_no_reason() -> None:
    code = "import threading\nthreading.Timer(0.05, lambda: None).start()"
    assert problems_after(code) == []


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with stand-ins for libraries, made by the C compiler there is."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    directory = tmp_path_factory.mktemp("libraries")
    compile_library(directory / "libcuda.so.1", CUDA, "-Wl,-soname,libcuda.so.1")
    compile_library(directory / "libparallel.so", PARALLEL, "-fopenmp")
    return directory


def compile_library(path: Path, source: str, *flags: str) -> None:
    command = ["gcc", "-shared", "-fPIC", *flags, "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)


# The driver as far as it matters: it can be asked, and says so where it is too early.
CUDA = """
static int initialised = 0;
int cuInit(unsigned flags) { initialised = 1; return 0; }
int cuDeviceGetCount(int *count) { if (!initialised) return 3; *count = 1; return 0; }
"""

# A parallel region, after which libgomp keeps its threads for the next one.
PARALLEL = """
int count_threads(void) {
    int count = 0;
    #pragma omp parallel num_threads(2) reduction(+:count)
    count = 1;
    return count;
}
"""

PARALLEL_REGION = """
import ctypes, os
def tasks(): return len(os.listdir("/proc/self/task"))
library = ctypes.CDLL({path!r})
alone = tasks()
assert library.count_threads() == 2
assert tasks() == alone + 1
"""

FORK = """
child = os.fork()
if child == 0:
    import signal
    signal.alarm(20)
    os._exit(library.count_threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    ("use", "problems"),
    [("", []), ("driver.cuInit(0)", ["CUDA is initialised"])],
    ids=["loaded", "initialised"],
)
def test_a_cuda_driver_matters_once_it_is_initialised(
    build: Path, use: str, problems: list[str]
) -> None:
    load = f"import ctypes; driver = ctypes.CDLL({str(build / 'libcuda.so.1')!r})"
    assert problems_after(f"{load}\n{use}") == problems


class TestOpenMP:
    """libgomp's threads are idle between regions, and a fork would leave the child without them."""

    def test_its_idle_threads_are_ended(self, build: Path) -> None:
        region = PARALLEL_REGION.format(path=str(build / "libparallel.so"))
        assert problems_after(region) == []

    def test_a_child_can_make_its_own(self, build: Path) -> None:
        """It waited for ever for its parent's."""
        region = PARALLEL_REGION.format(path=str(build / "libparallel.so"))
        assert run(f"{region}\nfork_safety.release_thread_pools()\n{FORK}") == "2"

    def test_they_are_left_alone_while_another_thread_may_use_them(self, build: Path) -> None:
        region = PARALLEL_REGION.format(path=str(build / "libparallel.so"))
        found = problems_after(f"{THREAD}\n{region}")
        assert found == ["Python threads: metrics", "1 native thread"]
