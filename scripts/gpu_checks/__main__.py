"""The command line of scripts/gpu_check."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import options
from benchmarks.processes import unwind_when_killed
from scorecards.waiting import eventually

from gpu_checks.service import MODEL, START_TIMEOUT, Service
from obworker.supervisor import gpu_listing, gpus
from obworker.supervisor.gpus import Device

EXIT_FAILED = 1
EXIT_NO_TORCH = 2
EXIT_NO_GPU = 77  # the exit code by which automake knows a skipped test
WORKERS = 2
CLIENTS = 8
RECOVERY_TIMEOUT = 300.0
QUERY_TIMEOUT = 60.0
LOOP = """
import sys, time
from predictor import Predictor
made, seconds, count = Predictor(), float(sys.argv[1]), 0
made.forward()
end = time.monotonic() + seconds
while time.monotonic() < end:
    made.forward()
    count += 1
print(count / seconds)
"""


def main() -> int:
    """Run all checks; say so if there is no GPU to check."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check", description=__doc__)
    parser.add_argument(
        "--seconds", type=options.seconds, default=10.0, help="for each measurement"
    )
    seconds = parser.parse_args().seconds
    unwind_when_killed()
    devices = gpus.select("auto", os.environ, gpu_listing.enumerate_gpus)
    if not devices:
        print("no GPU: nothing was checked")
        return EXIT_NO_GPU
    if importlib.util.find_spec("torch") is None:
        print(f"{sys.executable} has no torch: set PYTHON to one that has", file=sys.stderr)
        return EXIT_NO_TORCH
    print(f"{len(devices)} GPUs: {', '.join(device.label for device in devices)}", flush=True)
    bare = _bare_loop(devices[0], seconds)
    with tempfile.TemporaryDirectory() as directory:
        service = Service(Path(directory) / "log", WORKERS)
        try:
            service.wait_until_ready()
            failures = _check(service, devices, bare, seconds)
        finally:
            service.stop()
    return EXIT_FAILED if failures else 0


def _check(service: Service, devices: list[Device], bare: float, seconds: float) -> int:
    results = [
        _check_places(service, devices),
        _check_rate(service, bare, min(len(devices), WORKERS), seconds),
        _check_recovery(service),
    ]
    for gpu in service.report()["gpus"]:
        print(f"     NVML: {gpu}")
    return results.count(False)


def _say(*, passed: bool, text: str) -> bool:
    print(f"{'ok  ' if passed else 'FAIL'} {text}", flush=True)
    return passed


# where the workers are


def _check_places(service: Service, devices: list[Device]) -> bool:
    """Compare the GPU on which each worker computes, by nvidia-smi, with the GPU of its slot."""
    service.rate(CLIENTS, 1.0)  # the first use makes a worker's CUDA context
    seen = _compute_processes()
    slots = service.report()["slots"]
    if not any(slot["pid"] in seen for slot in slots):
        print("     nvidia-smi shows none of the workers: it knows their pids outside a container")
        return True
    results = [_check_place(slot, devices, seen) for slot in slots]
    return all(results)


def _check_place(slot: Any, devices: list[Device], seen: dict[int, str]) -> bool:
    wanted = devices[slot["slot"] % len(devices)].token
    found = seen.get(slot["pid"], "no GPU")
    uuid = _uuids().get(wanted, wanted)
    text = f"worker {slot['slot']}, pid {slot['pid']}, is to be on gpu {wanted}, is on {found}"
    return _say(passed=found.startswith(uuid), text=text)


def _uuids() -> dict[str, str]:
    return dict(_rows("--query-gpu=index,uuid"))


def _compute_processes() -> dict[int, str]:
    found = _rows("--query-compute-apps=pid,gpu_uuid")
    return {int(pid): uuid for pid, uuid in found if pid.isdecimal()}  # or [N/A], and its like


def _rows(query: str) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT
    ).stdout
    return [re.split(r",\s*", line) for line in answer.splitlines() if line.strip()]


# how fast they are


def _bare_loop(device: Device, seconds: float) -> float:
    """Return how often per second the model computes without a server."""
    environ = {**os.environ, **device.environment}
    command = [sys.executable, "-c", LOOP, str(seconds)]
    ended = subprocess.run(
        command,
        cwd=MODEL,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=START_TIMEOUT + seconds,
    )
    if ended.returncode:
        sys.exit(f"FAIL a bare loop on {device.label}: torch says why, above")
    return float(ended.stdout)


def _check_rate(service: Service, bare: float, busy: int, seconds: float) -> bool:
    rate = service.rate(CLIENTS, seconds)
    text = (
        f"{rate:.0f} requests/s by {WORKERS} workers on {busy} GPUs; "
        f"a bare loop: {bare:.0f}/s on one, {rate / bare / busy:.2f} of that for each"
    )
    return _say(passed=rate > 0, text=text)


# what follows when a kernel fails


def _check_recovery(service: Service) -> bool:
    """Let a kernel fail, and check that the worker is replaced on its slot."""
    before = {slot["slot"]: slot["pid"] for slot in service.report()["slots"]}
    status, answer = service.post("/?fail=1")
    failed_at = time.monotonic()

    def recovered() -> dict[int, int] | None:
        report = service.report()
        pids = {slot["slot"]: slot["pid"] for slot in report["slots"]}
        return pids if report["status"] == "ok" and pids != before else None

    after = eventually(recovered, RECOVERY_TIMEOUT, "a new worker")
    took = time.monotonic() - failed_at
    replaced = [slot for slot in before if before[slot] != after[slot]]
    text = f"a device-side assert: {status} {answer}; slots {replaced} replaced in {took:.1f} s"
    is_well = service.post()[0] == 200
    return _say(passed=status == 503 and len(replaced) == 1 and is_well, text=text)


if __name__ == "__main__":
    sys.exit(main())
