"""The units of conf/ under a real systemd, with drop-ins for where the tests' files are."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from clients import Load, Outcome
from harness import ROOT, eventually, request
from process_one import Systemd, why_not
from units import Service, prepare

WORST_EXPOSURE = 30
FAILURES = {Outcome.FAILED, Outcome.LOST, Outcome.REFUSED}


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """Boot a systemd that knows the units of conf/."""
    if reason := why_not():
        pytest.skip(reason)
    prepared = prepare(tmp_path_factory.mktemp("systemd"))
    try:
        yield prepared.boot()
    finally:
        prepared.shut_down()


@pytest.fixture
def service(systemd: Systemd, request: pytest.FixtureRequest) -> Iterator[Service]:
    """Return an instance of the service that nobody has started; it is stopped after the test."""
    name = re.sub(r"\W", "-", request.node.name.removeprefix("test_"))
    made = Service(systemd, name)
    yield made
    made.stop()
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


def test_a_start_sh_that_was_stopped_is_no_failure(service: Service) -> None:
    service.write_script()
    service.systemctl("start")
    assert request(service.port, "GET").status == 200
    service.systemctl("stop")
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")


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
    eventually(lambda: service.show("NRestarts") == "1", 60, "a restart")
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


def test_it_is_installed_where_only_a_part_of_it_is_there(tmp_path: Path) -> None:
    for name in ("unshare", "apt-get"):
        (tmp_path / name).write_text("#!/bin/sh\necho $1\n")
        (tmp_path / name).chmod(0o755)
    installed = subprocess.run(
        ["/bin/bash", ROOT / "scripts" / "install_systemd"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert installed.stdout == "update\ninstall\n"


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
