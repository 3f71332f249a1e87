"""The units of conf/ under a real systemd, with drop-ins for where the tests' files are."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from clients import Load, Outcome
from harness import ROOT, SERVING, eventually, request
from process_one import Systemd, why_not

from obworker.supervisor.listeners import free_port

WORST_EXPOSURE = 30
FAILURES = {Outcome.FAILED, Outcome.LOST, Outcome.REFUSED}

PREDICTOR = """
import os, time
time.sleep({import_time})

class Predictor:
    def predict(self):
        prefixes = ("LISTEN_", "NOTIFY_", "WATCHDOG_")
        leaked = [name for name in os.environ if name.startswith(prefixes)]
        return {{"pid": os.getpid(), "leaked": leaked}}
"""

# The tests' Python and files may be in /root or /tmp, which the unit hides.
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


class Service:
    """One instance of obworker@.service."""

    def __init__(self, systemd: Systemd, etc: Path, name: str) -> None:
        self.systemd = systemd
        self.unit = f"obworker@{name}.service"
        self.socket = f"obworker@{name}.socket"
        self.model = etc / name
        self.model.mkdir()
        self._log = etc / f"{name}.log"
        (etc / f"{name}.toml").write_text(
            f'model = "{self.model}"\nhost = "127.0.0.1"\nport = 0\nadmin_bind = "off"\n'
        )
        self.write_predictor()

    def write_predictor(self, import_time: float = 0) -> None:
        (self.model / "predictor.py").write_text(PREDICTOR.format(import_time=import_time))

    def systemctl(self, verb: str) -> None:
        """Give an order; fail where it does."""
        done = self.systemd.systemctl(verb, self.unit)
        assert done.returncode == 0, f"{done.stderr}\n{self.log()}"

    def show(self, name: str) -> str:
        return self.systemd.show(self.unit, name)

    @property
    def master(self) -> psutil.Process:
        return self.systemd.main_process(self.unit)

    def titles(self) -> list[str]:
        return [" ".join(child.cmdline()).strip() for child in self.master.children()]

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def port(self) -> int:
        found = SERVING.findall(self.log())
        assert found, self.log()
        return int(found[-1])

    def listen(self) -> int:
        """Start the socket unit, and only that, on a port."""
        port = free_port()
        directory = self.systemd.units / f"{self.socket}.d"
        directory.mkdir()
        (directory / "port.conf").write_text(SOCKET.format(port=port))
        self.systemd.systemctl("daemon-reload")
        assert self.systemd.systemctl("start", self.socket).returncode == 0
        return port


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """Boot a systemd that knows the units of conf/."""
    if reason := why_not():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("systemd")
    (directory / "etc").mkdir()
    booted = Systemd(directory)
    try:
        for unit in ("obworker@.service", "obworker@.socket"):
            shutil.copy(ROOT / "conf" / unit, booted.units)
        drop_ins = booted.units / "obworker@.service.d"
        drop_ins.mkdir()
        (drop_ins / "test.conf").write_text(
            DROP_IN.format(python=sys.executable, etc=directory / "etc")
        )
        yield booted.boot()
    finally:
        booted.shut_down()


@pytest.fixture
def service(systemd: Systemd, request: pytest.FixtureRequest) -> Iterator[Service]:
    """Return an instance of the service that nobody has started; it is stopped after the test."""
    name = re.sub(r"\W", "-", request.node.name.removeprefix("test_"))
    made = Service(systemd, systemd.units.parent / "etc", name)
    yield made
    systemd.systemctl("stop", made.socket, made.unit)
    print(f"--- log of {made.unit}\n{made.log()}")


def test_started_means_ready(service: Service) -> None:
    service.write_predictor(import_time=1)
    service.systemctl("start")
    assert request(service.port, timeout=1).status == 200
    assert service.show("StatusText") == "Serving: 1 of 1 workers ready, generation 1"


def test_a_model_may_load_longer_than_systemd_would_wait(service: Service) -> None:
    service.write_predictor(import_time=8)
    service.systemctl("start")
    assert service.show("NRestarts") == "0"
    assert request(service.port).status == 200


def test_predictors_see_nothing_that_was_meant_for_the_master(service: Service) -> None:
    service.listen()
    service.systemctl("start")
    assert b'"leaked":[]' in request(service.port).body


def test_stopped_means_gone_and_is_no_failure(service: Service) -> None:
    service.systemctl("start")
    processes = [service.master, *service.master.children()]
    service.systemctl("stop")
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    assert not any(process.is_running() for process in processes)


def test_a_model_that_cannot_be_loaded_is_not_tried_again(service: Service) -> None:
    (service.model / "predictor.py").write_text("import nothing_of_that_name")
    assert service.systemd.systemctl("start", service.unit).returncode != 0
    assert (service.show("ActiveState"), service.show("ExecMainStatus")) == ("failed", "4")
    assert service.show("NRestarts") == "0"


def test_a_reload_brings_new_code_and_the_service_is_active_again(service: Service) -> None:
    service.systemctl("start")
    pid = service.master.pid
    service.systemctl("reload")
    eventually(
        lambda: any(title.startswith("obworker: worker 0 g2") for title in service.titles()),
        what="a worker of generation 2",
    )
    eventually(lambda: service.show("ActiveState") == "active", what="the end of the reload")
    assert "generation 2" in service.show("StatusText")
    assert service.master.pid == pid


def test_a_reload_that_fails_is_said_in_the_status_and_the_service_stays(service: Service) -> None:
    service.systemctl("start")
    (service.model / "predictor.py").write_text("import nothing_of_that_name")
    service.systemctl("reload")
    eventually(lambda: "nothing_of_that_name" in service.show("StatusText"), what="the reason")
    eventually(lambda: service.show("ActiveState") == "active", what="the end of the reload")
    assert request(service.port).status == 200


def test_a_frozen_master_is_killed_and_replaced(service: Service) -> None:
    service.systemctl("start")
    frozen = service.master
    processes = [frozen, *frozen.children()]
    frozen.send_signal(signal.SIGSTOP)
    eventually(lambda: service.show("NRestarts") == "1", 30, "a restart")
    eventually(lambda: service.show("ActiveState") == "active", what="a service that is active")
    assert request(service.port).status == 200
    assert not any(process.is_running() for process in processes)


def test_a_master_that_idles_is_not_killed(service: Service) -> None:
    service.systemctl("start")
    beats = "WatchdogTimestampMonotonic"
    first = int(service.show(beats))
    eventually(lambda: int(service.show(beats)) > first + 4_000_000, what="4 s of watchdog")
    assert service.show("NRestarts") == "0"


def test_the_first_client_starts_a_service_whose_socket_waits(service: Service) -> None:
    port = service.listen()
    assert service.show("ActiveState") == "inactive"
    assert request(port).status == 200
    assert service.show("ActiveState") == "active"


def test_a_restart_under_load_fails_no_request(service: Service) -> None:
    port = service.listen()
    service.systemctl("start")
    load = Load(port, threads=8)
    pids = set()
    for _ in range(3):
        service.systemctl("restart")
        expected = len(load.results) + 50
        eventually(partial(has_results, load, expected), what="more answers")
        pids.add(service.master.pid)
    results = load.stop()
    assert [result for result in results if result.outcome in FAILURES] == []
    assert len(pids) == 3


def has_results(load: Load, count: int) -> bool:
    return len(load.results) >= count


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_the_unit_is_hardened() -> None:
    unit = ROOT / "conf" / "obworker@.service"
    audit = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    done = subprocess.run(
        [*audit, f"--threshold={WORST_EXPOSURE}", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
