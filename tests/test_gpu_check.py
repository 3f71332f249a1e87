"""scripts/gpu_check, where there is no GPU, and on a machine that only says that it has some."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT, eventually
from scripts_run import workers_of

# It takes the processes that are titled as workers for those that compute.
NVIDIA_SMI = """#!/bin/bash
case "$1" in
-L) echo "GPU 0: X (UUID: GPU-aaaaaaaa-0000)"; echo "GPU 1: X (UUID: GPU-bbbbbbbb-0000)";;
--query-gpu=*) echo "0, GPU-aaaaaaaa-0000"; echo "1, GPU-bbbbbbbb-0000";;
--query-compute-apps=*)
    echo "[Insufficient Permissions], GPU-aaaaaaaa-0000"
    for path in /proc/[0-9]*; do
        title=$(tr '\\0' ' ' 2>/dev/null <"$path/cmdline") || continue
        case "$title" in
        "obworker: worker "*" gpu 0 "*) echo "${path#/proc/}, GPU-aaaaaaaa-0000";;
        "obworker: worker "*" gpu 1 "*) echo "${path#/proc/}, %s";;
        esac
    done;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return a directory that comes first on PATH, and one of modules beside it."""
    for name in ("bin", "modules"):
        (tmp_path / name).mkdir()
    return tmp_path


def install(machine: Path, second: str) -> None:
    """Let there be two GPUs, and workers on the first and on a `second`."""
    tests = Path(__file__).parent
    shutil.copy(tests / "stub_torch.py", machine / "modules" / "torch.py")
    shutil.copy(tests / "stub_nvml.py", machine / "modules" / "pynvml.py")
    tool = machine / "bin" / "nvidia-smi"
    tool.write_text(NVIDIA_SMI % second)
    tool.chmod(0o755)


def command(seconds: str) -> list[str]:
    return [str(ROOT / "scripts" / "gpu_check"), "--seconds", seconds]


def variables(machine: Path, **environ: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{machine / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(machine / "modules"),
        "PYTHON": sys.executable,
        "PYTHONDONTWRITEBYTECODE": "1",
        **environ,
    }


def check(machine: Path, seconds: str = "0.5", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(seconds),
        env=variables(machine, **environ),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_without_a_gpu_it_says_so_and_has_a_code_of_its_own(machine: Path) -> None:
    ended = check(machine, CUDA_VISIBLE_DEVICES="")
    assert (ended.returncode, ended.stdout) == (77, "no GPU: nothing was checked\n")


def test_where_all_is_well_it_passes(machine: Path) -> None:
    install(machine, "GPU-bbbbbbbb-0000")
    ended = check(machine)
    assert ended.returncode == 0, ended
    lines = ended.stdout.splitlines()
    assert lines[0] == "2 GPUs: gpu 0, gpu 1"
    assert [line[:4] for line in lines].count("ok  ") == 4
    assert "device-side assert: 503" in ended.stdout
    assert "'temperature': 61" in ended.stdout


def test_a_worker_on_another_gpu_fails(machine: Path) -> None:
    install(machine, "GPU-cccccccc-0000")
    ended = check(machine)
    assert ended.returncode == 1, ended
    assert "is to be on gpu 1, is on GPU-cccccccc-0000" in ended.stdout


def test_where_torch_cannot_use_the_gpu_it_says_why(machine: Path) -> None:
    install(machine, "GPU-bbbbbbbb-0000")
    with (machine / "modules" / "torch.py").open("a") as file:
        file.write("raise RuntimeError('the driver is too old')\n")
    ended = check(machine)
    assert ended.returncode == 1
    assert "RuntimeError: the driver is too old\n" in ended.stderr
    assert ended.stderr.endswith("FAIL a bare loop on gpu 0: torch says why, above\n")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "a"])
def test_a_time_that_is_none_is_an_error_of_usage(machine: Path, seconds: str) -> None:
    ended = check(machine, seconds, CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 2
    assert f"argument --seconds: invalid seconds value: '{seconds}'" in ended.stderr


def test_one_that_is_ended_leaves_no_server(machine: Path) -> None:
    install(machine, "GPU-bbbbbbbb-0000")
    running = subprocess.Popen(command("3"), env=variables(machine), stdout=subprocess.DEVNULL)
    workers = eventually(lambda: workers_of(running), 60, "workers")
    running.terminate()
    assert running.wait(60) == 128 + signal.SIGTERM
    eventually(lambda: not any(worker.is_running() for worker in workers), what="their end")
