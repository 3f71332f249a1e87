"""What is counted of responses, by itself and by a server on a socket."""

from __future__ import annotations

import time

import pytest
from harness import eventually
from wire import AT_ONCE, Blocking, StartServer, echo

from obworker.http.monitor import Monitor
from obworker.http.tally import BOUNDS, BUCKETS, Tally

# statuses of requests that were in predict, of others, and how many are 2xx, 3xx, 4xx and 5xx
RESPONSES = [
    ([], [], (0, 0, 0, 0)),
    ([200, 204, 200], [], (3, 0, 0, 0)),
    ([], [200, 204], (2, 0, 0, 0)),
    ([200, 307, 422, 499, 500], [401, 503], (1, 1, 3, 2)),
    ([999], [600], (0, 0, 0, 2)),
]


@pytest.mark.parametrize(("served", "answered", "responses"), RESPONSES)
def test_responses_are_counted_by_class(
    served: list[int], answered: list[int], responses: tuple[int, ...]
) -> None:
    tally = Tally()
    for status in served:
        tally.answered(status)
        tally.times.append(1.0)
    for status in answered:
        tally.answered(status)
    assert tally.responses == responses
    assert (sum(tally.buckets), tally.seconds) == (len(served), len(served))


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, "0.001"),
        (0.001, "0.001"),
        (0.0011, "0.005"),
        (0.3, "0.5"),
        (60.0, "60.0"),
        (60.1, "+Inf"),
    ],
)
def test_a_time_is_in_the_first_bucket_that_has_room_for_it(seconds: float, bucket: str) -> None:
    tally = Tally()
    tally.times.append(seconds)
    assert {name: count for name, count in zip(BUCKETS, tally.buckets, strict=True) if count} == {
        bucket: 1
    }
    assert tally.seconds == seconds


def test_bounds_ascend() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))


class Told(Monitor):
    """A monitor that adds up what it is told."""

    def __init__(self) -> None:
        self.responses = [0, 0, 0, 0]
        self.timed = 0
        self.seconds = 0.0

    def beat(self, now: float, tally: Tally) -> None:
        self.timed += sum(tally.buckets)
        self.seconds += tally.seconds
        self.responses = [a + b for a, b in zip(self.responses, tally.responses, strict=True)]


def expect(told: Told, responses: list[int], timed: int) -> None:
    eventually(lambda: told.responses == responses, what=f"{responses}, not {told.responses}")
    assert told.timed == timed


def test_what_predict_answers_is_timed_and_what_is_answered_at_once_is_not(
    start: StartServer,
) -> None:
    told = Told()
    client = start(echo, monitor=told).connect()
    began = time.monotonic()
    for path in ("/", AT_ONCE, "/"):
        client.get(path)
        assert client.read_reply().status == 200
    expect(told, [3, 0, 0, 0], timed=2)
    assert 0 < told.seconds < time.monotonic() - began


def test_what_is_no_request_is_a_response(start: StartServer) -> None:
    told = Told()
    client = start(echo, monitor=told).connect()
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert client.read_reply().status == 400
    expect(told, [0, 0, 1, 0], timed=0)


def test_waiting_counts_and_a_refusal_is_not_timed(start: StartServer) -> None:
    told, app = Told(), Blocking()
    server = start(app, monitor=told, max_queue=1)
    first, second, third = (server.connect() for _ in range(3))
    first.get()
    app.wait_until_begun()
    second.get()
    eventually(lambda: server.pending == 2)
    third.get()
    assert third.read_reply().status == 503
    time.sleep(0.1)
    app.release.set()
    second.read_reply()
    expect(told, [2, 0, 0, 1], timed=2)
    assert told.seconds >= 0.2  # the second, which was in predict for no time, as well


def test_a_predict_past_its_deadline_is_5xx_and_took_its_time(start: StartServer) -> None:
    told, app = Told(), Blocking()
    client = start(app, monitor=told, timeout=0.1).connect()
    client.get()
    assert client.read_reply().status == 504
    expect(told, [0, 0, 0, 1], timed=1)
    assert told.seconds >= 0.1
    app.release.set()


def test_a_server_that_is_closed_tells_of_its_last_responses(start: StartServer) -> None:
    told = Told()
    server = start(echo, monitor=told)

    def answer_and_close() -> list[int]:
        server.server._service.tally.answered(404)
        server.server.close()
        return told.responses

    seen: list[list[int]] = []
    server.call(lambda: seen.append(answer_and_close()))  # no beat comes in between
    assert seen == [[0, 0, 1, 0]]
