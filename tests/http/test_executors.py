"""Who calls predict, and who runs the loop meanwhile: what clients and predictors see of it."""

from __future__ import annotations

import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import eventually
from wire import AT_ONCE, TIMEOUT, Blocking, Client, Running, StartServer, echo

from obworker.http.executors import SHORT, Executors
from obworker.http.reactor import Reactor

# What a client may notice of a call that is somebody else's; a machine that is busy needs some.
UNNOTICED = 0.1


class Paced:
    """An application whose calls take as long as their query says, in milliseconds.

    It notes what threads call it, and whether two ever do at once.
    """

    def __init__(self, most: int = 1) -> None:
        self.threads: set[int] = set()
        self.calls = 0
        self.met = False
        self._free = threading.Semaphore(most)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.threads.add(threading.get_ident())
        self.met = self.met or not self._free.acquire(blocking=False)
        self.calls += 1
        time.sleep(float(environ["QUERY_STRING"] or 0) / 1000)
        self._free.release()
        return echo(environ, start_response)


class Spinning(Paced):
    """One whose calls compute in Python: they hold the interpreter's lock."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        end = time.monotonic() + float(environ["QUERY_STRING"] or 0) / 1000
        while time.monotonic() < end:
            pass
        return echo(environ, start_response)


def ask(client: Client, path: str) -> float:
    """Send a request, read its answer, and return how long that took."""
    begun = time.monotonic()
    client.get(path)
    assert client.read_reply().status == 200
    return time.monotonic() - begun


def make_short(server: Running, client: Client) -> None:
    """Send short calls until they are made by the thread that runs the loop."""

    def is_inline() -> bool:
        ask(client, "/short")
        return server.server.executors.is_inline

    eventually(is_inline, TIMEOUT, "calls in the loop's thread")


class TestWhileACallIsUnderWay:
    @pytest.mark.parametrize("application", [Paced, Spinning])
    def test_others_are_answered_at_once_what_needs_no_predict(
        self, start: StartServer, application: type[Paced]
    ) -> None:
        server = start(application())
        busy, other = server.connect(), server.connect()
        make_short(server, other)
        busy.get("/?1500")
        assert max(ask(other, AT_ONCE) for _ in range(20)) < UNNOTICED
        assert busy.read_reply().status == 200

    def test_timers_are_on_time(self, start: StartServer) -> None:
        server = start(Paced())
        client = server.connect()
        make_short(server, client)
        client.get("/?400")
        asked, fired = time.monotonic(), []
        server.call(
            lambda: server.server.reactor.call_later(0.1, lambda: fired.append(time.monotonic()))
        )
        eventually(lambda: fired)
        assert fired[0] - asked < 0.1 + UNNOTICED
        assert client.read_reply().status == 200

    def test_a_bad_request_is_refused(self, start: StartServer) -> None:
        server = start(Paced())
        busy, other = server.connect(), server.connect()
        make_short(server, busy)
        busy.get("/?1000")
        other.send(b"nonsense\r\n\r\n")
        begun = time.monotonic()
        assert other.read_reply().status == 400
        assert time.monotonic() - begun < UNNOTICED
        assert busy.read_reply().status == 200

    def test_a_stream_that_waits_for_its_reader_keeps_nobody(self, start: StartServer) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield from [b"x" * (1 << 20)] * (16 if environ["PATH_INFO"] == "/large" else 1)

        server = start(app)
        slow, other = server.connect(receive_buffer=4096), server.connect()
        slow.get("/large")
        slow.read_head()
        begun = time.monotonic()
        other.get(AT_ONCE)
        assert other.read_reply().status == 200
        assert time.monotonic() - begun < 1
        slow.reset()


class TestThreads:
    def test_predict_is_always_called_by_the_same_one(self, start: StartServer) -> None:
        app = Paced()
        server = start(app)
        client = server.connect()
        for milliseconds in (0, 20, 0, 0, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 30, 0, 0):
            ask(client, f"/?{milliseconds}")
        assert app.threads == {server._thread.ident}

    def test_short_calls_need_no_other_thread_again_after_long_ones(
        self, start: StartServer
    ) -> None:
        server = start(Paced())
        client = server.connect()
        for _ in range(3):
            ask(client, "/?20")
        assert not server.server.executors.is_inline
        make_short(server, client)

    def test_several_call_at_once(self, start: StartServer) -> None:
        app = Paced(most=3)
        server = start(app, threads=3)
        clients = [server.connect() for _ in range(3)]
        begun = time.monotonic()
        for client in clients:
            client.get("/?300")
        assert [client.read_reply().status for client in clients] == [200] * 3
        assert time.monotonic() - begun < 0.6
        assert not server.server.executors.is_inline


@contextmanager
def all_threads_end() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    eventually(lambda: not set(threading.enumerate()) - before, TIMEOUT, "the end of all threads")


@contextmanager
def executors(threads: int = 1, **options: Any) -> Iterator[tuple[Reactor, Executors]]:
    """Run executors without a server; they are to end in time when the block has stopped them."""
    reactor = Reactor()
    made = Executors(reactor, threads, on_free=lambda: None, on_relieved=lambda: None, **options)
    with all_threads_end():
        made.start()
        threading.Thread(target=made.run_here, name="executor", daemon=True).start()
        yield reactor, made
    reactor.close()


def test_who_wakes_an_executor_leaves_no_room_for_a_second_call(start: StartServer) -> None:
    """Each time it did: a request that should have waited in the queue was handed over."""
    app = Blocking()
    server = start(app, threads=2, max_queue=0)
    for _ in range(3):
        server.call(server.server.executors.wake)
    eventually(server.server.executors._jobs.empty)
    *served, refused = (server.connect() for _ in range(3))
    for client in served:
        client.get("/")
        app.wait_until_begun()
    refused.get("/")
    assert refused.read_reply().status == 503
    app.release.set()
    assert [client.read_reply().status for client in served] == [200, 200]


class TestStop:
    def submit(self, reactor: Reactor, made: Executors, job: Callable[[], object]) -> None:
        reactor.post(made.submit, job, lambda _: None)

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("inline", [True, False])
    def test_while_nothing_is_to_be_done(self, threads: int, inline: bool) -> None:
        with executors(threads, inline=inline) as (reactor, made):
            reactor.post(made.stop)

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("inline", [True, False])
    def test_during_a_call_which_is_ended(self, threads: int, inline: bool) -> None:
        begun, go, ended = threading.Event(), threading.Event(), threading.Event()

        def job() -> None:
            begun.set()
            assert go.wait(TIMEOUT)
            ended.set()

        with executors(threads, inline=inline) as (reactor, made):
            self.submit(reactor, made, job)
            assert begun.wait(TIMEOUT)
            reactor.post(made.stop)
            eventually(lambda: not reactor._posted)
            go.set()
            assert ended.wait(TIMEOUT)

    def test_from_within_a_call_that_is_over(self) -> None:
        """The loop is given back to the executor by calls that were short; it stays stopped."""
        with executors() as (reactor, made):
            made.average = 2 * SHORT
            done = threading.Event()

            def end(_: object) -> None:
                made.average = 0.0
                made.stop()
                done.set()

            reactor.post(made.submit, lambda: None, end)
            assert done.wait(TIMEOUT)


class TestAnAnswerThatIsNotTaken:
    """An executor stayed taken by a call that was over, so nothing was ever begun again."""

    def fail(self, _: object) -> None:
        raise RuntimeError("cannot start new thread")

    @pytest.mark.parametrize("inline", [True, False])
    def test_after_it_the_executor_is_free(self, inline: bool) -> None:
        with executors(inline=inline) as (reactor, made):
            reactor.post(made.submit, lambda: None, self.fail)
            self.check(reactor, made)

    def test_after_what_is_answered_in_the_loop_too(self) -> None:
        with executors() as (reactor, made):
            reactor.post(made.run_now, lambda: None, self.fail)
            self.check(reactor, made)

    def check(self, reactor: Reactor, made: Executors) -> None:
        seen = threading.Event()
        reactor.post(seen.set)
        assert seen.wait(TIMEOUT)
        eventually(lambda: not made.busy, TIMEOUT, "a free executor")
        reactor.post(made.stop)


class Answer:
    """What a job returns, and can be referred to weakly."""


def test_an_answer_that_was_sent_is_not_kept() -> None:
    """It was, however large, until the next one was made."""
    made_answers: list[weakref.ref[Answer]] = []

    def job() -> Answer:
        answer = Answer()
        made_answers.append(weakref.ref(answer))
        return answer

    with executors(inline=False) as (reactor, made):
        reactor.post(made.submit, job, lambda _: None)
        try:
            eventually(lambda: made_answers and made_answers[0]() is None)
        finally:
            reactor.post(made.stop)


class TestWhileTheLoopChangesHands:
    """An executor has seen that calls are short, and waits for the wheel."""

    @pytest.fixture
    def waiting(self) -> Iterator[Executors]:
        reactor = Reactor()
        made = Executors(reactor, 1, on_free=lambda: None, on_relieved=lambda: None)
        executor = threading.Thread(target=made.run_here, name="executor", daemon=True)

        def is_waiting() -> bool:
            frame = sys._current_frames()[executor.ident or 0]
            return frame.f_code is Executors._steer_if_short.__code__

        with all_threads_end():
            made.start()
            with made._wheel:
                executor.start()
                eventually(is_waiting, TIMEOUT)
                yield made
        reactor.close()

    def test_a_job_that_comes_is_done(self, waiting: Executors) -> None:
        """It lay in the executor's queue while the executor ran the loop, and waited for ever."""
        waiting.submit(lambda: None, lambda _: waiting.stop())

    def test_a_stop_is_heard(self, waiting: Executors) -> None:
        waiting.stop()


class Caller(threading.Thread):
    """A client that asks one question after the other, or several at once, until it is time."""

    def __init__(self, server: Running, seed: int, until: float) -> None:
        super().__init__(daemon=True)
        self._client = server.connect()
        self._chance, self._until = random.Random(seed), until
        self.asked: list[str] = []
        self.answered: list[str] = []

    def run(self) -> None:
        while time.monotonic() < self._until:
            length = self._chance.choice((0, 0, 0, 0, 0.2, 0.5, 1, 2, 3, 6))
            paths = [
                f"/{len(self.asked) + n}?{length}" for n in range(self._chance.choice((1, 1, 3)))
            ]
            self.asked += paths
            for path in paths:
                self._client.get(path)
            for _ in paths:
                self.answered.append(self._client.read_reply().body.decode())
            if self._chance.random() < 0.1:
                time.sleep(self._chance.random() * 0.02)


@pytest.mark.parametrize(("seed", "threads"), [(1, 1), (2, 1), (3, 3)])
def test_every_request_is_answered_once_whatever_the_mix_of_calls(
    start: StartServer, seed: int, threads: int
) -> None:
    app = Paced(most=threads)
    server = start(app, threads=threads)
    callers = [Caller(server, 100 * seed + n, time.monotonic() + 2) for n in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(TIMEOUT)
        assert not caller.is_alive()
        assert caller.answered == [f"GET {path.partition('?')[0]} " for path in caller.asked]
    assert app.calls == sum(len(caller.asked) for caller in callers)
    assert len(app.threads) == threads
    assert not app.met
    eventually(lambda: server.pending == 0)
