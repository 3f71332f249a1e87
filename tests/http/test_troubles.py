"""What the log says of what happens many times a second, by itself and by a server on a socket."""

from __future__ import annotations

import logging
import math

import pytest
from harness import eventually
from wire import Blocking, Client, Running, StartServer

from obworker.http.troubles import INTERVAL, Recurring, Troubles

NEVER = ""

# What happens, and what the log says when it is looked after then.
LOOKS = [
    ("nothing", ["", ""], [(0.0, NEVER), (INTERVAL, NEVER)]),
    ("once", ["a", ""], [(0.0, "it failed: a"), (INTERVAL, NEVER)]),
    ("at once", ["aaa"], [(7.0, "it failed: a (3 times)")]),
    ("the most frequent first", ["abb"], [(0.0, "it failed: b (2 times); a")]),
    (
        "no more than one in a while",
        ["a", "aa", "ab", ""],
        [
            (0.0, "it failed: a"),
            (INTERVAL / 2, NEVER),
            (INTERVAL - 0.01, NEVER),
            (INTERVAL, "it failed: a (3 times); b"),
        ],
    ),
    (
        "what is left when the burst is over",
        ["a", "aa", "", ""],
        [
            (0.0, "it failed: a"),
            (0.25, NEVER),
            (INTERVAL, "it failed: a (2 times)"),
            (2 * INTERVAL, NEVER),
        ],
    ),
    (
        "at once again after a pause",
        ["a", "b"],
        [(0.0, "it failed: a"), (INTERVAL + 1, "it failed: b")],
    ),
    ("all of it at the end", ["a", "b"], [(0.0, "it failed: a"), (math.inf, "it failed: b")]),
]


@pytest.mark.parametrize(
    ("happens", "looks"), [row[1:] for row in LOOKS], ids=[row[0] for row in LOOKS]
)
def test_what_recurs_is_summed_up(happens: list[str], looks: list[tuple[float, str]]) -> None:
    recurring = Recurring("it failed")
    said = []
    for reasons, (now, _) in zip(happens, looks, strict=True):
        for reason in reasons:
            recurring.count(reason)
        said.append((now, recurring.line(now)))
    assert said == looks


def test_troubles_do_not_wait_for_one_another() -> None:
    troubles = Troubles()
    troubles.refused.count("a")
    assert list(troubles.lines(0.0)) == ["refused a request with 503: a"]
    troubles.refused.count("a")
    troubles.not_taken.count("b")
    assert list(troubles.lines(1.0)) == ["cannot take a connection from another worker: b"]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log has of refusals."""
    return [message for message in caplog.messages if message.startswith("refused")]


def ask(server: Running, count: int) -> list[Client]:
    clients = [server.connect() for _ in range(count)]
    for client in clients:
        client.get()
    return clients


class TestRefusals:
    """With 503 and no line in the log, who was called for it found nothing."""

    def test_a_full_queue_is_told_once_and_the_rest_at_the_end(
        self, start: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = Blocking()
        server = start(app, max_queue=0)
        (served,) = ask(server, 1)
        app.wait_until_begun()
        with caplog.at_level(logging.WARNING, "obworker.http"):
            assert [client.read_reply().status for client in ask(server, 3)] == [503] * 3
            eventually(lambda: lines(caplog))
            assert [client.read_reply().status for client in ask(server, 5)] == [503] * 5
            app.release.set()
            assert served.read_reply().status == 200
            server.call(server.server.close)
        first, last = lines(caplog)
        said = "refused a request with 503: the queue was full, see --max-queue"
        assert first.startswith(said)
        assert last.startswith(said)

    def test_so_is_who_waited_too_long(
        self, start: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = Blocking()
        server = start(app, queue_timeout=0.1)
        ask(server, 1)
        app.wait_until_begun()
        (late,) = ask(server, 1)
        with caplog.at_level(logging.WARNING, "obworker.http"):
            assert late.read_reply().status == 503
            eventually(lambda: lines(caplog))
        assert lines(caplog)[0].endswith("no worker was free in time, see --queue-timeout")
        app.release.set()

    def test_so_is_who_came_to_a_worker_that_begins_nothing_more(
        self, start: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What nobody has told when it ends, is told then."""
        app = Blocking()
        server = start(app)
        ask(server, 1)
        app.wait_until_begun()
        server.call(server.server.refuse_queued)
        (late,) = ask(server, 1)
        with caplog.at_level(logging.WARNING, "obworker.http"):
            assert late.read_reply().status == 503
            app.release.set()
            server.call(server.server.close)
        assert lines(caplog)[0].endswith("see --timeout and --graceful-timeout")


def test_where_every_connection_is_at_work_the_log_says_why_others_wait(
    start: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    app = Blocking()
    server = start(app, max_connections=1)
    (served,) = ask(server, 1)
    app.wait_until_begun()
    with caplog.at_level(logging.WARNING, "obworker.http"):
        (late,) = ask(server, 1)
        eventually(lambda: "cannot accept a connection" in caplog.text)
    assert "there are 1 and none is idle, see --max-connections" in caplog.text
    app.release.set()
    assert served.read_reply().status == 200
    served.close()
    assert late.read_reply().status == 200
