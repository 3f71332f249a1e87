"""How batches are put together, and how those in one fare."""

from __future__ import annotations

import errno
import gc
import io
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from harness import eventually
from wire import TIMEOUT, Client, Running, StartServer, body_of

from obworker.http import acceptor
from obworker.http import service as services
from obworker.http.batches import Answers, Batches, Batching
from obworker.http.cycle import Cycle
from obworker.http.environ import Environ
from obworker.http.executors import Executors
from obworker.http.parser import Request
from obworker.http.reactor import Reactor


class Played:
    """A cycle that answers with its name."""

    client_gone = False

    def __init__(self, name: str, received: float) -> None:
        self.name = name
        self.received = received
        self.environ: dict[str, Any] = {}

    def enter(self) -> None:
        self.environ["name"] = self.name

    def run(self, application: Any) -> bytes:
        answer: bytes = application()
        return answer

    def renew_deadline(self) -> None:
        pass


@dataclass
class Play:
    """Batches of one worker, with everything around them played: what is due is done by `go_on`."""

    size: int = 3
    wait: float = 0.0
    threads: int = 1
    is_inline: bool = False
    average: float = 1.0
    unfinished: int = 0
    jobs: list[tuple[Callable[[], Any], Callable[[Any], None]]] = field(default_factory=list)
    posted: list[Callable[[], None]] = field(default_factory=list)
    timers: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    ignored: int = 0

    def __post_init__(self) -> None:
        self.batches = Batches(
            Batching(self._answer, self.size, self.wait),
            cast("Reactor", self),
            cast("Executors", self),
            on_busy=self._ignore,
        )

    def submit_request(self, name: str, age: float = 0.0) -> None:
        cycle = cast("Cycle", Played(name, time.monotonic() - age))
        self.batches.submit(cycle, lambda rest: self.answered.append(rest.decode()))

    def work(self) -> None:
        """Be an executor until there is no job."""
        while self.jobs:
            job, done = self.jobs.pop(0)
            done(job())
            self.unfinished -= 1

    def take(self) -> None:
        """Be an executor whose job takes long."""
        job, _ = self.jobs.pop(0)
        job()

    def go_on(self) -> None:
        """Make the calls that were posted or are due."""
        calls = [*self.posted, *(call for _, call in self.timers)]
        self.posted, self.timers = [], []
        for call in calls:
            call()

    # as the batches see it

    @property
    def busy(self) -> bool:
        return self.unfinished >= self.threads

    def submit(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.unfinished += 1
        self.jobs.append((job, done))
        if self.is_inline:
            self.work()

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)

    call_safely = call

    def post(self, call: Callable[..., None], *arguments: object) -> None:
        self.posted.append(partial(call, *arguments))

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        self.timers.append((seconds, partial(call, *arguments)))

    def _answer(self, environs: Sequence[Environ]) -> Iterable[Answers]:
        names = [environ["name"] for environ in environs]
        self.calls.append("".join(names))
        yield [(n, cast("Any", name.upper().encode)) for n, name in enumerate(names)]

    def _ignore(self) -> None:
        self.ignored += 1


class TestHowTheyArePutTogether:
    def test_one_that_comes_alone_is_given_to_the_executor_at_once(self) -> None:
        play = Play()
        play.submit_request("a")
        assert len(play.jobs) == 1
        play.work()
        assert (play.calls, play.answered) == (["a"], ["A"])

    def test_others_join_it_until_the_executor_takes_it(self) -> None:
        play = Play()
        play.submit_request("a")
        assert not play.batches.busy
        play.submit_request("b")
        play.work()
        assert (play.calls, play.answered) == (["ab"], ["A", "B"])

    def test_one_that_is_full_takes_no_more(self) -> None:
        play = Play(size=2)
        play.submit_request("a")
        play.submit_request("b")
        assert play.batches.busy
        play.work()
        assert play.calls == ["ab"]

    def test_one_that_was_taken_takes_no_more_and_others_are_told(self) -> None:
        play = Play()
        play.submit_request("a")
        play.take()
        assert play.batches.busy
        assert play.ignored == 1

    def test_with_another_executor_free_nobody_is_told(self) -> None:
        play = Play(threads=2)
        play.submit_request("a")
        play.take()
        assert not play.batches.busy
        assert not play.ignored

    def test_inline_it_begins_when_all_that_happened_was_seen_to(self) -> None:
        play = Play(is_inline=True)
        play.submit_request("a")
        play.submit_request("b")
        assert not play.calls
        play.go_on()
        assert play.calls == ["ab"]

    def test_inline_a_full_one_begins_at_once_and_only_once(self) -> None:
        play = Play(size=2, is_inline=True)
        play.submit_request("a")
        play.submit_request("b")
        assert play.calls == ["ab"]
        play.go_on()
        assert play.calls == ["ab"]


class TestWaiting:
    @pytest.mark.parametrize("is_inline", [True, False])
    def test_the_first_waits_for_others(self, is_inline: bool) -> None:
        play = Play(wait=0.5, is_inline=is_inline)
        play.submit_request("a")
        play.submit_request("b")
        ((due, _),) = play.timers
        assert due == pytest.approx(0.5, abs=0.1)
        assert not play.jobs
        assert not play.batches.busy
        play.go_on()
        play.work()
        assert play.calls == ["ab"]

    def test_what_it_has_waited_in_the_queue_counts(self) -> None:
        play = Play(wait=0.5)
        play.submit_request("a", age=0.4)
        ((due, _),) = play.timers
        assert due == pytest.approx(0.1, abs=0.1)

    def test_one_that_has_waited_long_enough_begins_at_once(self) -> None:
        play = Play(wait=0.5)
        play.submit_request("a", age=0.6)
        assert len(play.jobs) == 1

    def test_a_full_one_does_not_wait(self) -> None:
        play = Play(size=2, wait=0.5)
        play.submit_request("a")
        play.submit_request("b")
        play.work()
        play.submit_request("c")
        play.timers.pop(0)[1]()  # of the batch that is over
        play.work()
        assert play.calls == ["ab"]

    def test_its_timer_keeps_nothing_of_one_that_is_over(self) -> None:
        play = Play(size=2, wait=0.5)
        play.submit_request("a")
        opened = play.batches._open
        assert opened is not None
        cycle = weakref.ref(opened.members[0].cycle)
        play.submit_request("b")
        play.work()
        assert play.timers
        gc.collect()
        assert cycle() is None


class Together:
    """An application that answers with how many were in the call, once it is released.

    `raising` is what a call raises, `steps` how the members are parted.
    """

    def __init__(self, raising: BaseException | None = None, steps: int = 1) -> None:
        self.begun = threading.Semaphore(0)
        self.release = threading.Event()
        self.bodies: list[list[bytes]] = []
        self.extensions: list[Callable[[float], None]] = []
        self._raising = raising
        self._steps = steps

    def answer_all(self, environs: Sequence[Environ]) -> Iterable[Answers]:
        self.bodies.append([body_of(environ) for environ in environs])
        self.extensions = [environ["obworker.extend_deadline"] for environ in environs]
        self.begun.release()
        assert self.release.wait(TIMEOUT)
        if self._raising is not None:
            raise self._raising
        for step in range(self._steps):
            yield [
                (n, partial(_count, len(environs))) for n in range(step, len(environs), self._steps)
            ]

    def __call__(self, environ: Environ, start_response: Any) -> list[bytes]:
        raise AssertionError("a request that was answered alone")


def _count(count: int, _environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"%d" % count]


def queue_up(server: Running, app: Together, count: int) -> list[Client]:
    """Occupy the executor with one request, and have others wait; return all clients."""
    clients = [server.connect() for _ in range(count + 1)]
    clients[0].post("/", b"first")
    assert app.begun.acquire(timeout=TIMEOUT)
    for number, client in enumerate(clients[1:]):
        client.post("/", b"%d" % number)
        eventually(partial(_holds, server, number + 1))
    return clients


def _gathers(server: Running) -> bool:
    """Whether a request waits for others."""
    batches = server.server._takers
    assert isinstance(batches, Batches)
    return batches._open is not None


def _holds(server: Running, count: int) -> bool:
    return len(server.server.queue._waiting) == count


class TestWithClients:
    def test_what_waits_is_answered_together_in_order(self, start: StartServer) -> None:
        app = Together()
        server = start(app, batching=Batching(app.answer_all, 3, 0.0))
        clients = queue_up(server, app, 5)
        app.release.set()
        assert [client.read_reply().body for client in clients] == [b"1", *[b"3"] * 3, *[b"2"] * 2]
        assert app.bodies == [[b"first"], [b"0", b"1", b"2"], [b"3", b"4"]]

    def test_as_many_connections_as_one_call_answers_are_accepted_meanwhile(
        self, start: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(acceptor, "YIELD_TIME", 3600.0)
        app = Together()
        server = start(app, batching=Batching(app.answer_all, 5, 0.0))
        first = server.connect()
        first.post("/", b"first")
        assert app.begun.acquire(timeout=TIMEOUT)
        others = [server.connect() for _ in range(8)]
        for client in others:
            client.post("/", b"")
        accepting = server.server.acceptor
        eventually(lambda: accepting._yielding is not None)
        server.call(accepting.on_free)
        eventually(partial(_holds, server, 5))
        assert server.active == 1 + 5
        app.release.set()
        assert {client.read_reply().status for client in (first, *others)} == {200}
        assert [len(bodies) for bodies in app.bodies[:2]] == [1, 5]

    def test_each_connection_goes_on(self, start: StartServer) -> None:
        app = Together()
        app.release.set()
        server = start(app, batching=Batching(app.answer_all, 3, 0.0))
        client = server.connect()
        for _ in range(50):
            client.post("/", b"x")
            assert client.read_reply().body == b"1"

    def test_who_has_left_is_not_computed(self, start: StartServer) -> None:
        app = Together()
        server = start(app, batching=Batching(app.answer_all, 8, 0.0))
        first, stays, leaves = queue_up(server, app, 2)
        leaves.reset()
        eventually(lambda: len(server.server.queue._waiting) == 1)
        app.release.set()
        assert (first.read_reply().body, stays.read_reply().body) == (b"1", b"1")
        assert app.bodies == [[b"first"], [b"0"]]

    def test_who_leaves_while_the_batch_waits_is_not_computed(self, start: StartServer) -> None:
        app = Together()
        app.release.set()
        server = start(app, batching=Batching(app.answer_all, 2, 600.0))
        leaves, stays = server.connect(), server.connect()
        leaves.post("/", b"gone")
        eventually(partial(_gathers, server))
        leaves.reset()
        eventually(lambda: any(c.is_lost for c in server.server._service.connections))
        stays.post("/", b"there")
        assert stays.read_reply().body == b"1"
        assert app.bodies == [[b"there"]]

    def test_one_whose_body_cannot_be_read_harms_nobody(
        self, start: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ended the thread that calls predict."""
        read = Request.open_body

        def fail(request: Request) -> io.BytesIO:
            if request.body == b"1":
                raise OSError(errno.EIO, "the page is lost")
            return read(request)

        monkeypatch.setattr(Request, "open_body", fail)
        app = Together()
        server = start(app, batching=Batching(app.answer_all, 8, 0.0))
        first, *others = queue_up(server, app, 2)
        app.release.set()
        assert [client.read_reply().status for client in (first, *others)] == [200, 200, 500]
        first.post("/", b"x")
        assert first.read_reply().status == 200

    def test_who_leaves_during_the_call_harms_nobody(self, start: StartServer) -> None:
        app = Together()
        server = start(app, batching=Batching(app.answer_all, 8, 0.0))
        first, leaves, stays = queue_up(server, app, 2)
        first.reset()
        leaves.reset()
        app.release.set()
        assert stays.read_reply().status == 200

    def test_it_can_be_told_who_has_left_during_the_call(self, start: StartServer) -> None:
        lost: list[Callable[[], bool]] = []
        begun = threading.Event()

        def answer_all(environs: Sequence[Environ]) -> Iterable[Answers]:
            lost.extend(environ["obworker.is_lost"] for environ in environs)
            begun.set()
            eventually(lost[0])
            yield [(n, partial(_count, len(environs))) for n in range(len(environs))]

        server = start(Together(), batching=Batching(answer_all, 2, 600.0))
        leaves, stays = server.connect(), server.connect()
        leaves.post("/", b"")
        eventually(partial(_gathers, server))
        stays.post("/", b"")
        assert begun.wait(TIMEOUT)
        leaves.reset()
        assert stays.read_reply().status == 200
        assert not lost[1]()

    def test_who_reads_slowly_holds_nobody_up(self, start: StartServer) -> None:
        part, parts = b"x" * 65536, 400

        def answer(size: int, _environ: Environ, start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return (part for _ in range(size))

        def answer_all(environs: Sequence[Environ]) -> Iterable[Answers]:
            yield [(0, partial(answer, parts)), (1, partial(answer, 1))]

        server = start(Together(), batching=Batching(answer_all, 2, 600.0), timeout=1.0)
        slow, other = server.connect(), server.connect()
        slow.post("/", b"")
        eventually(partial(_gathers, server))
        other.post("/", b"")
        assert other.read_reply().body == part
        assert slow.read_reply().body == part * parts
        assert not server.overdue

    def test_what_the_application_raises_each_gets_as_its_own(
        self, start: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = Together(SystemExit(3))
        app.release.set()
        server = start(app, batching=Batching(app.answer_all, 2, 600.0))
        clients = [server.connect(), server.connect()]
        for client in clients:
            client.post("/", b"")
        assert [client.read_reply().status for client in clients] == [500, 500]
        assert caplog.text.count("the application failed on POST /") == 2

    def test_what_is_answered_first_does_not_wait_for_the_rest(self, start: StartServer) -> None:
        held = threading.Event()

        def answer_all(environs: Sequence[Environ]) -> Iterable[Answers]:
            yield [(1, partial(_count, 1))]
            assert held.wait(TIMEOUT)
            yield [(0, partial(_count, 0))]

        app = Together()
        server = start(app, batching=Batching(answer_all, 2, 600.0))
        first, second = server.connect(), server.connect()
        first.post("/", b"")
        eventually(partial(_gathers, server))
        second.post("/", b"")
        assert second.read_reply().body == b"1"
        held.set()
        assert first.read_reply().body == b"0"

    def test_a_drain_answers_what_waits(self, start: StartServer) -> None:
        app = Together()
        server = start(app, batching=Batching(app.answer_all, 8, 0.0))
        clients = queue_up(server, app, 3)
        server.drain()
        app.release.set()
        replies = [client.read_reply() for client in clients]
        assert [reply.status for reply in replies] == [200] * 4
        assert {reply.headers["connection"] for reply in replies} == {"close"}

    def test_in_a_drain_nobody_waits_for_others(self, start: StartServer) -> None:
        app = Together()
        app.release.set()
        server = start(app, batching=Batching(app.answer_all, 8, 600.0))
        client, other = server.connect(), server.connect()
        client.post("/", b"")
        eventually(partial(_gathers, server))
        server.drain()
        other.post("/", b"")
        assert client.read_reply().status == 200
        assert other.read_reply().status == 200


class TestDeadlines:
    def test_all_get_504_and_the_call_is_told_of_once(self, start: StartServer) -> None:
        app = Together()
        server = start(app, batching=Batching(app.answer_all, 3, 600.0), timeout=0.5)
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.post("/", b"")
        assert [client.read_reply().status for client in clients] == [504] * 3
        server.call(lambda: None)
        app.release.set()
        assert len(server.overdue) == 1

    def test_an_extension_is_for_all(self, start: StartServer) -> None:
        app = Together()
        server = start(app, batching=Batching(app.answer_all, 2, 600.0), timeout=0.6)
        clients = [server.connect(), server.connect()]
        for client in clients:
            client.post("/", b"")
        assert app.begun.acquire(timeout=TIMEOUT)
        app.extensions[0](TIMEOUT)
        late = time.monotonic() + 1.2
        eventually(lambda: time.monotonic() > late)
        app.release.set()
        assert [client.read_reply().status for client in clients] == [200, 200]

    def test_after_each_step_the_others_have_their_time_anew(self, start: StartServer) -> None:
        """Four steps of 0.4 s are longer than the timeout, and none of them is."""

        def answer_all(environs: Sequence[Environ]) -> Iterable[Answers]:
            for _ in range(4):
                time.sleep(0.4)
                yield []
            yield [(0, partial(_count, 1))]

        server = start(Together(), batching=Batching(answer_all, 2, 0.0), timeout=1.0)
        client = server.connect()
        client.post("/", b"")
        assert client.read_reply().status == 200


def test_one_that_is_led_does_not_tell_of_its_deadline() -> None:
    told: list[Any] = []
    service = SimpleNamespace(on_overdue=told.append)
    for is_led in (True, False):
        cycle = SimpleNamespace(is_led=is_led, can_be_stopped=False)
        services.Service.note_overdue(cast("Any", service), cast("Any", cycle))
    assert [cycle.is_led for cycle in told] == [False]
