"""Runs a real systemd for tests, as process 1 of its own namespaces and with the tests' units only.

That needs root and an installed systemd, which boots in a fraction of a second. It shares the
machine's files and network, and has its own /run, /var/cache, processes and cgroups. It ends when
its standard input is closed, so it never outlives the tests, however they end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
from harness import eventually

BOOT_TIMEOUT = 20
COMMAND_TIMEOUT = 60
SYSTEMD = Path("/lib/systemd/systemd")
# Units that other units depend on implicitly (systemd.special(7)).
TARGETS = ("basic", "default", "multi-user", "network-online", "shutdown", "sockets", "sysinit")

# The cgroup is entered first, because the root of a cgroup namespace is the cgroup that its creator
# is in at that time.
OUTSIDE = """
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$CGROUPS"
group=$CGROUPS/obworker-test-$$
mkdir "$group"
bash -c 'echo $$ > "$0/cgroup.procs"; exec "$@"' "$group" \
    unshare --mount --pid --fork --mount-proc --cgroup --uts --ipc --kill-child \
    bash -c "$INSIDE" < /dev/null &
read -r _ || true
kill -KILL $!
wait || true
until find "$group" -depth -type d -exec rmdir {} + 2> /dev/null; do sleep 0.05; done
"""

INSIDE = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/cache
umount --recursive /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env --ignore-environment PATH="$PATH" container=test SYSTEMD_UNIT_PATH="$UNITS" \
    SYSTEMD_GENERATOR_PATH=/nowhere "$SYSTEMD" --system --unit=default.target
"""


def why_not() -> str:
    """Return why systemd cannot be booted here; the text is empty if no reason is known."""
    if os.geteuid() != 0:
        return "namespaces, control groups and mounts need root"
    if not SYSTEMD.exists():
        return "systemd is not installed: scripts/install_systemd"
    missing = [name for name in ("unshare", "nsenter", "systemctl") if not shutil.which(name)]
    return f"not installed: {', '.join(missing)}" if missing else ""


class Systemd:
    """A running systemd; `units` is the directory of its unit files."""

    def __init__(self, directory: Path) -> None:
        self.units = directory / "units"
        self.units.mkdir()
        for name in TARGETS:
            (self.units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
        (directory / "cgroups").mkdir()
        self._log = directory / "boot.log"
        with self._log.open("wb") as log:
            self._outside = subprocess.Popen(
                ["unshare", "--mount", "bash", "-c", OUTSIDE],
                env={
                    "PATH": os.environ["PATH"],
                    "SYSTEMD": str(SYSTEMD),
                    "UNITS": str(self.units),
                    "CGROUPS": str(directory / "cgroups"),
                    "INSIDE": INSIDE,
                },
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def boot(self) -> Systemd:
        """Wait until it has booted and systemctl can reach it."""
        eventually(self._runs, BOOT_TIMEOUT, "a systemd that runs")
        return self

    def _runs(self) -> bool:
        assert self._outside.poll() is None, f"systemd did not boot:\n{self._log.read_text()}"
        return self._process() is not None and self.systemctl("is-system-running").returncode == 0

    def _process(self) -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._outside.pid).children(recursive=True):
                if process.name() == "systemd":
                    return process
        return None

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run systemctl in its namespaces, and return the outcome, whatever that is."""
        process = self._process()
        assert process is not None, "systemd has gone"
        namespaces = ("--mount", "--pid", "--cgroup", "--uts", "--ipc")
        return subprocess.run(
            ["nsenter", f"--target={process.pid}", *namespaces, "systemctl", *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", "--value", "--property", name, unit).stdout.strip()

    def main_process(self, unit: str) -> psutil.Process:
        """Return the main process of a unit, as it is seen from outside the namespace."""
        inside = int(self.show(unit, "MainPID"))
        process = self._process()
        assert process is not None
        for child in process.children():
            with suppress(OSError):
                status = Path(f"/proc/{child.pid}/status").read_text()
                if f"\t{inside}\n" in status.partition("NSpid:")[2]:
                    return child
        raise AssertionError(f"{unit} has no main process")

    def shut_down(self) -> None:
        """Kill it and all processes that it has started."""
        assert self._outside.stdin
        self._outside.stdin.close()
        self._outside.wait(COMMAND_TIMEOUT)
