"""What scripts/chaos makes of what it saw: who is to blame for a lost request, a log, an answer."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
from answering import answering
from harness import eventually
from turmoil import access_lines, footprint, report, rest, sending, verdict
from turmoil.absences import Absences
from turmoil.answers import Answer
from turmoil.clients import CHUNKED, KEPT, SLOW, Client, Kind, Place
from turmoil.footprint import Footprint
from turmoil.ledger import Answered, Fault, Kill, Ledger, Loss, Operation
from turmoil.orders import Order, Wrong
from turmoil.probes import Prober, fault_of
from turmoil.scene import Scene
from turmoil.served import Served
from turmoil.sockets import clients_ports
from turmoil.spells import Spell, overlap
from turmoil.watch import LATE_SECONDS, Attendance, beat
from turmoil.work import at_work

KILL = Kill(pid=7, at=100.0, ports=frozenset({4000}))
LOST = Loss("kept-1", at=100.2, how="cut", port=4000, opened=90.0, is_cut=True)
CROSSED = LOST._replace(port=4001, may_be_unread=True, idle=0.7)


def blamed(loss: Loss, *, closes_from: float = math.inf, read: str = "") -> bool:
    found = verdict.sort([loss], [KILL], closes_from, {read})
    return found.unexcused == [loss]


@pytest.mark.parametrize(
    ("loss", "is_blamed"),
    [
        (LOST, False),
        (LOST._replace(at=190.0), False),
        (LOST._replace(port=4001), True),
        (LOST._replace(port=None), True),
        (LOST._replace(opened=100.1), True),
        (LOST._replace(at=99.9), True),
        (LOST._replace(is_cut=False), True),
    ],
    ids=[
        "held by the killed worker",
        "found out late",
        "held by another",
        "never connected",
        "over a later connection from the same port",
        "lost before the kill",
        "a wrong answer",
    ],
)
def test_a_kill_excuses_what_that_worker_held_and_nothing_else(loss: Loss, is_blamed: bool) -> None:
    assert blamed(loss) is is_blamed


@pytest.mark.parametrize(
    ("loss", "closes_from", "read", "is_blamed"),
    [
        (CROSSED, 100.0, "", False),
        (CROSSED, 101.0, "", True),
        (CROSSED, 100.0, "kept-1", True),
        (CROSSED._replace(may_be_unread=False), 100.0, "", True),
        (CROSSED._replace(is_cut=False), 100.0, "", True),
    ],
    ids=["crossed", "nothing is closed yet", "was read", "was busy", "a wrong answer"],
)
def test_an_unread_request_may_cross_the_end_of_its_connection(
    loss: Loss, closes_from: float, read: str, is_blamed: bool
) -> None:
    assert blamed(loss, closes_from=closes_from, read=read) is is_blamed


def test_crossing_is_rare_or_no_excuse() -> None:
    losses = [CROSSED._replace(id=f"idle-{number}") for number in range(5)]
    assert list(verdict.crossing_faults(losses, requests=500)) == []
    assert list(verdict.crossing_faults(losses, requests=100)) == [
        "5 of 100 requests crossed the end of an idle connection"
    ]


def test_what_is_lost_is_a_failure_and_named() -> None:
    done = [Operation("scale", at=80.0), Operation("hup", at=99.0)]
    ledger = Ledger(losses=[LOST], operations=done)
    losses = verdict.sort(ledger.losses, [], math.inf, {})
    assert report.failures(ledger, losses) == [f"{LOST}\n    after hup -1.20 s"]
    assert "kept-1" in str(LOST)


ANSWERED = Answered("kept-1", worker=7, at=50.0, seconds=0.1)


@pytest.mark.parametrize(
    ("lines", "answered", "faults"),
    [
        ({"kept-1": 1}, [ANSWERED], []),
        ({}, [ANSWERED._replace(at=99.5)], []),
        ({}, [ANSWERED], ["access log: no line of kept-1, answered by 7"]),
        (
            {},
            [ANSWERED._replace(worker=8, at=99.5)],
            ["access log: no line of kept-1, answered by 8"],
        ),
        ({"kept-1": 2}, [ANSWERED], ["access log: 2 lines of kept-1"]),
        ({"kept-2": 1}, [], ["access log: a line of 'kept-2', which nobody sent"]),
    ],
    ids=["all well", "killed just then", "killed much later", "not killed", "twice", "a stranger"],
)
def test_an_access_log_names_each_answered_request_once(
    lines: dict[str, int], answered: list[Answered], faults: list[str]
) -> None:
    assert list(verdict.log_faults(lines, answered, {"kept-1"}, [KILL])) == faults


def test_an_access_log_is_read_in_all_its_files(tmp_path: Path) -> None:
    path = tmp_path / "access"
    for name in ("a", "b"):
        path.write_text(json.dumps({"request_id": name}) + "\n")
        access_lines.rotate(path)
    path.write_text('{"request_id": "c"}\n{"request_id": "d\n')
    found = access_lines.read(path)
    assert found.ids == {"a": 1, "b": 1, "c": 1}
    assert found.torn == ['{"request_id": "d\n']


READY = b'{"status": "ok", "ready": true, "reason": null}'
UNREADY = b'{"status": "unready", "ready": false, "reason": "0 of 3 workers ready"}'


@pytest.mark.parametrize(
    ("path", "status", "body", "may_be_unready", "is_fault"),
    [
        ("/livez", 200, b"", False, False),
        ("/livez", 503, b"", True, True),
        ("/readyz", 200, READY, False, False),
        ("/readyz", 200, UNREADY, True, True),
        ("/readyz", 503, READY, True, True),
        ("/readyz", 503, UNREADY, True, False),
        ("/readyz", 503, UNREADY, False, True),
        ("/healthz", 500, b"", True, True),
    ],
)
def test_a_probe_has_to_be_answered_truly(
    path: str, status: int, body: bytes, may_be_unready: bool, is_fault: bool
) -> None:
    fault = fault_of("GET", path, Answer(status, {}, body), may_be_unready=may_be_unready)
    assert (fault is not None) is is_fault


def test_unreadiness_is_explained_until_the_service_was_seen_whole() -> None:
    absences = Absences()
    assert not absences.explain_unreadiness()
    absences.begin([7], paused=True)
    absences.see([8])
    assert absences.explain_unreadiness()
    absences.end_pause()
    absences.see([7, 8])
    assert absences.explain_unreadiness()
    absences.see([8, 9])
    assert not absences.explain_unreadiness()


class Whole(BaseHTTPRequestHandler):
    """Says that all is well, with a worker whose process is 8."""

    def do_GET(self) -> None:
        report = {"status": "ok", "ready": True, "reason": None, "slots": [{"pid": 8}]}
        body = json.dumps(report).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_worker_that_was_killed_before_it_served_explains_unreadiness_while_it_is_there() -> None:
    """It was to take the place of one that served, which then left."""
    absences, workers = Absences(), [SimpleNamespace(pid=8), SimpleNamespace(pid=9)]
    server = SimpleNamespace(processes=lambda _: workers)
    scene = cast("Scene", SimpleNamespace(server=server, absences=absences, ledger=Ledger()))
    absences.begin([9])
    with answering(Whole) as port, at_work([Prober(scene, port, Random(1)).run]):
        eventually(lambda: scene.ledger.probes["GET /healthz"] > 1)
        assert absences.explain_unreadiness()
        workers.pop()
        eventually(lambda: not absences.explain_unreadiness())


ID = {"x-request-id": "kept-1"}


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        (Answer(200, ID, b'{"id": "kept-1", "size": 3, "pid": 7}'), True),
        (Answer(200, ID, b'{"id": "kept-2", "size": 3, "pid": 7}'), False),
        (Answer(200, ID, b'{"id": "kept-1", "size": 2, "pid": 7}'), False),
        (Answer(200, {}, b'{"id": "kept-1", "size": 3, "pid": 7}'), False),
        (Answer(503, ID, b'{"error": "the queue is full"}'), False),
    ],
)
def test_an_answer_is_right_only_if_it_is_to_that_request(answer: Answer, is_right: bool) -> None:
    order = Order("kept-1", padding="zzz")
    if is_right:
        assert order.worker(answer) == 7
    else:
        with pytest.raises(Wrong, match=str(answer.status)):
            order.worker(answer)


@pytest.mark.parametrize(
    ("body", "is_right"),
    [
        (b"s-1 0 7\ns-1 1 7\n", True),
        (b"s-1 0 7\n", False),
        (b"s-1 0 7\ns-1 1 8\n", False),
        (b"", False),
    ],
)
def test_a_stream_is_right_only_if_it_is_whole_and_of_one_worker(
    body: bytes, is_right: bool
) -> None:
    order, answer = Order("s-1", parts=2), Answer(200, {"x-request-id": "s-1"}, body)
    if is_right:
        assert order.worker(answer) == 7
    else:
        with pytest.raises(Wrong):
            order.worker(answer)


def test_the_kernel_tells_which_connections_a_process_holds() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        port = client.getsockname()[1]
        assert port not in clients_ports(os.getpid())  # nobody has accepted it
        accepted, _ = listener.accept()
        assert port in clients_ports(os.getpid())
        accepted.close()
        assert port not in clients_ports(os.getpid())


@pytest.mark.parametrize(
    ("spells", "seconds"),
    [
        ([], 0),
        ([Spell(0, 9)], 0),
        ([Spell(8, 11)], 1),
        ([Spell(11, 12)], 1),
        ([Spell(13, 17), Spell(12, 15)], 3),
        ([Spell(11, 14), Spell(12, 13)], 3),
        ([Spell(5, 30)], 5),
        ([Spell(15, 16)], 0),
    ],
    ids=["none", "over", "begun before", "within", "two at once", "one in another", "all", "later"],
)
def test_spells_are_counted_as_far_as_they_cover_a_time_and_once(
    spells: list[Spell], seconds: float
) -> None:
    assert overlap(spells, 10, 15) == seconds


def test_who_waits_longer_than_the_spells_it_met_explain_is_a_failure() -> None:
    most = verdict.MOST_SECONDS
    waited = [
        Answered("kept-1", worker=7, at=50.0, seconds=most),
        Answered("kept-2", worker=7, at=50.0, seconds=most + 3),
        Answered("kept-3", worker=7, at=90.0, seconds=most + 3),
    ]
    frozen = [Spell(45.0, 48.0)]
    assert list(verdict.slow_faults(waited, frozen)) == [
        Fault("kept-3: answered after 5.0 s, and nothing explains 5.0 s of it", at=90.0)
    ]
    ledger = Ledger(answered=waited[:2], spells=frozen)
    said = list(report.lines(ledger, verdict.Sorted([], [], []), []))
    assert "2 answered, the slowest kept-2 after 5.0 s; at most 2.0 s unexplained" in said


def test_there_is_nobody_from_one_look_that_saw_somebody_to_the_next() -> None:
    ledger, seen = Ledger(), iter((3, 0, 0, 2, 1))
    attendance = Attendance(lambda: next(seen), ledger)
    looks = []
    for _ in range(5):
        looks.append(time.monotonic())
        attendance.look()
    (spell,) = ledger.spells
    assert looks[0] <= spell.begin < looks[1]
    assert looks[3] <= spell.end < looks[4]


def test_it_counts_against_nobody_that_the_clients_themselves_did_not_run() -> None:
    ledger, over = Ledger(), Late(LATE_SECONDS + 0.1)
    beat(ledger, cast("threading.Event", over))
    (spell,) = ledger.spells
    assert spell.end - spell.begin >= LATE_SECONDS


class Late:
    """An event that is awaited three times, the second time for too long."""

    def __init__(self, seconds: float) -> None:
        self._delays = [0.0, seconds, 0.0]

    def wait(self, _: float) -> bool:
        if self._delays:
            time.sleep(self._delays.pop(0))
            return False
        return True


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that answers what clients ask for, at once."""
    with answering(Answering) as port:
        yield port


@pytest.mark.parametrize("kind", [CHUNKED, SLOW, KEPT], ids=lambda kind: kind.name)
def test_a_client_waits_from_when_it_has_sent_all(
    port: int, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PAUSE_SECONDS", 0.5)  # longer than a busy machine takes to answer
    monkeypatch.setattr(sending, "SLOW_PIECE", 100)
    ledger, over = Ledger(), threading.Event()
    client = Client(kind, kind.name, Place(port, None, threading.Event()), ledger, Random(2))
    thread = threading.Thread(target=client.run, args=(over,))
    thread.start()
    eventually(lambda: ledger.answered or ledger.losses)
    over.set()
    thread.join(10)
    assert not ledger.losses
    assert 0 <= ledger.answered[0].seconds < sending.PAUSE_SECONDS


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        order = json.loads(self._body())
        found = {"id": order["id"], "size": len(order["padding"]), "pid": 7}
        answer = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Request-ID", order["id"])
        self.end_headers()
        self.wfile.write(answer)

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_: object) -> None:
        pass


class Quiet:
    """A server of two workers, one of which answers each greeting."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._greeted = iter((8, 8, 9))

    def is_whole(self) -> bool:
        return True

    def processes(self, _: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in (8, 9)]

    def greet(self) -> None:
        worker = next(self._greeted)
        self.ledger.answered.append(Answered("new-1", worker, at=1.0, seconds=0.1))


def test_a_worker_that_has_never_answered_is_asked_before_it_is_measured() -> None:
    quiet = Quiet()
    has_come = partial(rest.has_come, cast("Served", quiet), quiet.ledger, quiet.greet)
    assert [has_come() for _ in range(4)] == [False, False, False, True]


class Measurable:
    """A process that can be measured, unless it has ended."""

    def __init__(self, *, has_ended: bool = False) -> None:
        self._has_ended = has_ended

    def num_fds(self) -> int:
        if self._has_ended:
            raise psutil.NoSuchProcess(0)
        return 20

    def memory_info(self) -> SimpleNamespace:
        return SimpleNamespace(rss=1 << 20)


def test_a_worker_that_is_recycled_while_it_is_measured_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(footprint, "WATCH_SECONDS", 0)
    listed = iter([[Measurable(), Measurable(has_ended=True)]])
    server = SimpleNamespace(
        ask=lambda _: None,
        master=Measurable(),
        processes=lambda role: next(listed, [Measurable()]) if role == "worker" else [Measurable()],
    )
    assert footprint.least(cast("Served", server)).descriptors["worker"] == 20


def test_growth_is_more_descriptors_or_much_more_memory() -> None:
    before = Footprint({"master": 20, "mold": 10}, {"master": 30 << 20})
    assert list(footprint.growth(before, before)) == []
    after = Footprint({"master": 21, "mold": 9}, {"master": 33 << 20})
    assert list(footprint.growth(before, after)) == [
        "master: 20 descriptors, 21 at the end",
        "master: 30720 KiB, 33792 KiB at the end",
    ]


@pytest.mark.parametrize(
    ("line", "is_fault"),
    [
        ('  File "/srv/obworker/supervisor/master.py", line 7, in run', True),
        ("ERROR: this is a bug in obworker", True),
        ('  File "/srv/model/predictor.py", line 7, in <module>', False),
    ],
)
def test_a_log_has_no_traceback_of_ours(line: str, is_fault: bool) -> None:
    assert bool(list(verdict.traceback_faults(f"first\n{line}\n"))) is is_fault
