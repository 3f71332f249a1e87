"""Scenarios: what a server reports about itself to health checks and to systemd."""

from __future__ import annotations

import socket
import time

from scorecards.clients import Pending, ask
from scorecards.models import Model
from scorecards.scenarios import Measured, Scenario, Serve
from scorecards.servers import START_SECONDS, Server
from scorecards.waiting import Late, eventually

WORKERS = 2
PROBES = 20
MOST_PROBE_SECONDS = 0.1
SLOW_IMPORT = "time.sleep(4)"
NOTIFY_SECONDS = 20.0
MOST_FIRST_ANSWER_SECONDS = 0.5


def readyz_while_held(serve: Serve) -> Measured:
    """Ask for readiness while all workers are in a C call that holds the interpreter's lock."""
    server = serve(Model(), workers=WORKERS, admin=True)
    admin_port = server.admin_port
    eventually(lambda: ask(admin_port, path="/readyz").ok, START_SECONDS, "first probe")
    requests = [_hold_another(server, number) for number in range(WORKERS)]
    probes = [ask(admin_port, path="/readyz") for _ in range(PROBES)]
    held = not any(request.is_over for request in requests)
    for request in requests:
        request.close()
    slowest = max(probe.latency for probe in probes)
    good = sum(probe.ok for probe in probes)
    ok = held and good == PROBES and slowest < MOST_PROBE_SECONDS
    return Measured(ok, f"{good} of {PROBES} ready, slowest {slowest * 1000:.0f} ms")


def _hold_another(server: Server, held: int) -> Pending:
    """Send a request when the workers that are blocked already cannot accept it any more."""
    request = Pending(server.port, "hold:4")
    server.wait_for_more("predict", held)
    return request


def ready_means_answering(serve: Serve) -> Measured:
    """Send a request the moment the server tells systemd that it is ready."""
    path = str(serve.directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        started = time.monotonic()
        server = serve(Model(at_import=SLOW_IMPORT), ready=False, environ={"NOTIFY_SOCKET": path})
        _receive_ready(systemd)
        ready = time.monotonic() - started
        result = ask(server.port)
    ok = result.ok and result.latency < MOST_FIRST_ANSWER_SECONDS
    return Measured(ok, f"READY=1 after {ready:.1f} s, a request then: {result}")


def _receive_ready(systemd: socket.socket) -> None:
    deadline = time.monotonic() + NOTIFY_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        systemd.settimeout(left)
        try:
            if "READY=1" in systemd.recv(4096).decode().split("\n"):
                return
        except TimeoutError:
            break
    raise Late(f"READY=1: not within {NOTIFY_SECONDS:g} s")


SCENARIOS = (
    Scenario(
        "readyz-gil",
        "admin /readyz while all workers hold the GIL",
        "ready, < 100 ms",
        readyz_while_held,
    ),
    Scenario(
        "notify-ready",
        "READY=1 against the first answer, 4 s import",
        "an answer possible at once",
        ready_means_answering,
    ),
)
