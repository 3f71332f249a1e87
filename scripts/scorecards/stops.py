"""Scenarios: stops with waiting requests, stops with a request that never ends, quick stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from scorecards.clients import Pending
from scorecards.models import Model
from scorecards.scenarios import Measured, Scenario, Serve
from scorecards.servers import Server
from scorecards.waiting import seconds_until

WAITING = 6
GRACEFUL_TIMEOUT = 2.0
MOST_OVER_GRACEFUL = 2.0
MOST_QUICK_SECONDS = 3.0
LONGEST_STOP = 40.0
LONG_REQUEST = "sleep:60"


def six_waiting(serve: Serve) -> Measured:
    """Stop a server whose only worker has six requests of a second each."""
    server = serve(Model())
    port = server.port
    requests = [Pending(port, "sleep:1") for _ in range(WAITING)]
    server.wait_for_more("predict", 0)
    server.signal(signal.SIGTERM)
    results = [request.result(timeout=20) for request in requests]
    code = server.wait(LONGEST_STOP)
    answered = sum(result.ok for result in results)
    lost = next((f" ({result})" for result in results if not result.ok), "")
    return Measured(
        answered == WAITING and code == 0, f"{answered} of {WAITING} answered{lost}, exit {code}"
    )


def stuck(serve: Serve) -> Measured:
    """Stop a server with a request that does not end in time."""
    server = serve(Model(), graceful_timeout=GRACEFUL_TIMEOUT)
    with _in_flight(server):
        server.signal(signal.SIGTERM)
        took = seconds_until(lambda: server.is_gone, LONGEST_STOP, "end of all processes")
        code = server.wait(1)
    return Measured(took <= GRACEFUL_TIMEOUT + MOST_OVER_GRACEFUL, f"{took:.1f} s, exit {code}")


def int_during_stop(serve: Serve) -> Measured:
    """Send INT during a stop that waits for a request."""
    server = serve(Model())
    with _in_flight(server):
        server.signal(signal.SIGTERM)
        server.wait_for_log(r"(?i)stopping|signal: term")
        return _quick_stop(server)


def int_during_reload(serve: Serve) -> Measured:
    """Send INT during a reload in which an old worker waits for a request."""
    server = serve(Model("old"))
    with _in_flight(server):
        known = len(server.noted("ready"))
        server.redeploy(Model("new"))
        server.signal(signal.SIGHUP)
        server.wait_for_more("ready", known)
        return _quick_stop(server)


@contextmanager
def _in_flight(server: Server) -> Iterator[None]:
    """Keep a request in predict while the block runs, which takes longer than the scenario."""
    request = Pending(server.port, LONG_REQUEST)
    try:
        server.wait_for_more("predict", 0)
        yield
    finally:
        request.close()


def _quick_stop(server: Server) -> Measured:
    server.signal(signal.SIGINT)
    took = seconds_until(lambda: server.is_gone, LONGEST_STOP, "end of all processes")
    return Measured(took < MOST_QUICK_SECONDS, f"gone after {took:.1f} s")


SCENARIOS = (
    Scenario(
        "term-waiting",
        "TERM with 1 s requests and 6 waiting, 1 worker",
        "6 of 6 answered, exit 0",
        six_waiting,
    ),
    Scenario(
        "term-stuck",
        f"TERM with a stuck request, graceful timeout {GRACEFUL_TIMEOUT:g} s",
        "exit by graceful timeout + 2 s",
        stuck,
    ),
    Scenario("int-in-stop", "INT during the drain of a TERM", "gone < 3 s", int_during_stop),
    Scenario("int-in-reload", "INT during the drain of a HUP", "gone < 3 s", int_during_reload),
)
