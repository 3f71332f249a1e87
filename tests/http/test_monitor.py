"""What a server's owner hears of the requests in predict, over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from typing import Any

from harness import eventually
from wire import AT_ONCE, Blocking, StartServer, echo

from obworker.http.cycle import Cycle
from obworker.http.monitor import Monitor
from obworker.http.tally import Tally


class Listening(Monitor):
    """A monitor that writes down what it hears, and from which thread."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.threads: dict[str, str] = {}
        self.beats: list[float] = []

    def begun(self, cycle: Cycle) -> None:
        self._note("begun", cycle)

    def extended(self, cycle: Cycle) -> None:
        self._note("extended", cycle)

    def ended(self, cycle: Cycle) -> None:
        self._note("ended", cycle)

    def beat(self, now: float, tally: Tally) -> None:
        self.beats.append(now)

    def _note(self, what: str, cycle: Cycle) -> None:
        self.threads[what] = threading.current_thread().name
        self.heard.append((what, cycle.request.head.path))


def test_a_request_is_begun_and_ended_on_its_executors_thread(start: StartServer) -> None:
    """Not in the loop: the row in shared memory is right even when the loop cannot run."""
    monitor = Listening()
    client = start(echo, monitor=monitor).connect()
    client.get("/a")
    client.read_reply()
    assert monitor.heard == [("begun", b"/a"), ("ended", b"/a")]
    assert set(monitor.threads.values()) == {"executor"}


def test_what_is_answered_at_once_is_not_in_predict(start: StartServer) -> None:
    monitor = Listening()
    client = start(echo, monitor=monitor).connect()
    client.get(AT_ONCE)
    client.read_reply()
    assert monitor.heard == []


def test_what_waits_for_a_thread_is_not_in_predict(start: StartServer) -> None:
    monitor, app = Listening(), Blocking()
    server = start(app, monitor=monitor)
    first, second = server.connect(), server.connect()
    first.get("/1")
    app.wait_until_begun()
    second.get("/2")
    eventually(lambda: server.pending == 2)
    assert monitor.heard == [("begun", b"/1")]
    app.release.set()
    second.read_reply()
    steps = [("begun", b"/1"), ("ended", b"/1"), ("begun", b"/2"), ("ended", b"/2")]
    assert monitor.heard == steps


def test_what_is_given_up_at_its_deadline_ends_once(start: StartServer) -> None:
    monitor, app = Listening(), Blocking()
    server = start(app, monitor=monitor, timeout=0.1)
    client = server.connect()
    client.get("/slow")
    assert client.read_reply().status == 504
    assert monitor.heard == [("begun", b"/slow"), ("ended", b"/slow")]
    app.release.set()
    other = server.connect()
    other.get("/next")
    other.read_reply()
    assert Counter(monitor.heard)["ended", b"/slow"] == 1


def test_an_extension_is_heard_of(start: StartServer) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["obworker.extend_deadline"](60.0)
        return echo(environ, start_response)

    monitor = Listening()
    client = start(app, monitor=monitor, timeout=5.0).connect()
    client.get("/a")
    client.read_reply()
    assert [what for what, _ in monitor.heard] == ["begun", "extended", "ended"]


def test_the_loop_beats_while_predict_runs(start: StartServer) -> None:
    monitor, app = Listening(), Blocking()
    client = start(app, monitor=monitor).connect()
    client.get()
    app.wait_until_begun()
    begun = time.monotonic()
    eventually(lambda: len([beat for beat in monitor.beats if beat > begun]) >= 2)
    app.release.set()
    assert client.read_reply().status == 200


def test_an_application_that_fails_has_ended_too(start: StartServer) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise SystemExit

    monitor = Listening()
    client = start(app, monitor=monitor).connect()
    client.get("/a")
    reply = client.read_reply()
    assert (reply.status, json.loads(reply.body)["error"]) == (500, "Internal Server Error")
    assert monitor.heard == [("begun", b"/a"), ("ended", b"/a")]
