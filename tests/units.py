"""Runs the units in conf/ in a real systemd, with drop-ins for the paths of the tests' files."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import psutil
from harness import ROOT, SERVING
from process_one import Systemd

from obworker.supervisor.listeners import free_port

PREDICTOR = """
import os, time
time.sleep({import_time})

class Predictor:
    def predict(self):
        prefixes = ("LISTEN_", "NOTIFY_", "WATCHDOG_")
        leaked = [name for name in os.environ if name.startswith(prefixes)]
        return {{"pid": os.getpid(), "leaked": leaked}}
"""

# The unit hides /root and /tmp from the service, and the tests' Python and files may be there.
DROP_IN = """
[Service]
ExecStart=
ExecStart={python} -m obworker --config {etc}/%i.toml
DynamicUser=no
# With this a filter can be attached (SO_ATTACH_FILTER), which would deafen a lent socket for ever.
CapabilityBoundingSet=CAP_NET_ADMIN
PrivateTmp=no
ProtectHome=no
RestartSec=100ms
TimeoutStartSec=5
WatchdogSec=2
StandardOutput=append:{etc}/%i.log
StandardError=append:{etc}/%i.log
"""

SOCKET = """
[Socket]
ListenStream=
ListenStream=127.0.0.1:{port}
"""


def prepare(directory: Path) -> Systemd:
    """Return a systemd that has the units of conf/; the caller boots it and shuts it down."""
    (directory / "etc").mkdir()
    systemd = Systemd(directory)
    for unit in ("obworker@.service", "obworker@.socket"):
        shutil.copy(ROOT / "conf" / unit, systemd.units)
    drop_ins = systemd.units / "obworker@.service.d"
    drop_ins.mkdir()
    drop_in = DROP_IN.format(python=sys.executable, etc=directory / "etc")
    (drop_ins / "test.conf").write_text(drop_in)
    return systemd


class Service:
    """One instance of obworker@.service."""

    def __init__(self, systemd: Systemd, name: str) -> None:
        etc = systemd.units.parent / "etc"
        self.systemd = systemd
        self.unit = f"obworker@{name}.service"
        self.socket = f"obworker@{name}.socket"
        self.model = etc / name
        self.model.mkdir()
        self._log = etc / f"{name}.log"
        self._settings = etc / f"{name}.toml"
        self._configure(port=0)
        self.write_predictor()

    def _configure(self, port: int) -> None:
        self._settings.write_text(
            f'model = "{self.model}"\nhost = "127.0.0.1"\nport = {port}\nadmin_bind = "off"\n'
        )

    def write_predictor(self, import_time: float = 0) -> None:
        (self.model / "predictor.py").write_text(PREDICTOR.format(import_time=import_time))

    def write_script(self) -> None:
        """Put a start.sh beside the predictor.py, which wins over it."""
        self._configure(free_port())
        (self.model / "start.sh").write_text(f"exec {sys.executable} -m http.server $PORT")

    def systemctl(self, verb: str) -> None:
        """Run systemctl for the unit; fail if it fails."""
        done = self.systemd.systemctl(verb, self.unit)
        assert done.returncode == 0, f"{done.stderr}\n{self.log()}"

    def show(self, name: str) -> str:
        return self.systemd.show(self.unit, name)

    @property
    def master(self) -> psutil.Process:
        return self.systemd.main_process(self.unit)

    def titles(self) -> list[str]:
        return [title for child in self.master.children() if (title := _title(child))]

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def port(self) -> int:
        found = SERVING.findall(self.log())
        assert found, self.log()
        return int(found[-1])

    def stop(self) -> None:
        """Stop the service and its socket unit."""
        self.systemd.systemctl("stop", self.socket, self.unit)

    def listen(self) -> int:
        """Start the socket unit, without the service, on a free port, and return that."""
        port = free_port()
        directory = self.systemd.units / f"{self.socket}.d"
        directory.mkdir()
        (directory / "port.conf").write_text(SOCKET.format(port=port))
        self.systemd.systemctl("daemon-reload")
        assert self.systemd.systemctl("start", self.socket).returncode == 0
        return port


def _title(process: psutil.Process) -> str:
    """Return the title of a process; it is empty if the process has just ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:  # psutil.ZombieProcess is derived from it
        return ""
