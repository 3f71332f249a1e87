"""The event loop by itself: descriptors, timers, calls of other threads, and whose turn it is."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
from harness import eventually

from obworker.http.reactor import READ, WRITE, Reactor, Turn

TIMEOUT = 10.0


class Loop:
    """A loop, run in this thread for as long as it takes; it is stopped when it takes too long."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.turn = Turn()
        self.heard: list[object] = []

    def hear(self, word: object) -> None:
        self.heard.append(word)

    def run_until(self, words: int) -> list[object]:
        """Run until so many words were heard, and a last round after that."""
        self.turn.steers = True

        def look() -> None:
            if len(self.heard) >= words or time.monotonic() > deadline:
                self.turn.end()
            else:
                self.reactor.call_later(0.002, look)

        deadline = time.monotonic() + TIMEOUT
        look()
        self.reactor.run(self.turn, nullcontext())
        return self.heard

    def run_elsewhere(self, lock: threading.RLock | None = None) -> threading.Thread:
        """Run in another thread until the turn ends."""
        self.turn.steers = True
        thread = threading.Thread(
            target=self.reactor.run, args=(self.turn, lock or nullcontext()), daemon=True
        )
        thread.start()
        return thread

    def end(self, thread: threading.Thread) -> None:
        self.reactor.post(self.turn.end)
        thread.join(TIMEOUT)
        assert not thread.is_alive()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.reactor.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


class TestTimers:
    def test_are_called_in_the_order_in_which_they_are_due(self, loop: Loop) -> None:
        for delay in (0.03, 0.01, 0.02, 0.0):
            loop.reactor.call_later(delay, loop.hear, delay)
        assert loop.run_until(4) == [0.0, 0.01, 0.02, 0.03]

    def test_of_the_same_instant_are_called_in_the_order_of_asking(
        self, loop: Loop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.monotonic()
        with monkeypatch.context() as patched:
            patched.setattr("obworker.http.reactor.time.monotonic", lambda: now)
            for number in range(20):
                loop.reactor.call_later(0, loop.hear, number)
        assert loop.run_until(20) == list(range(20))

    def test_are_not_called_early(self, loop: Loop) -> None:
        begun = time.monotonic()
        loop.reactor.call_later(0.05, loop.hear, "late")
        loop.run_until(1)
        assert time.monotonic() - begun >= 0.05

    def test_that_are_cancelled_are_not_called(self, loop: Loop) -> None:
        cancelled = loop.reactor.call_later(0, loop.hear, "cancelled")
        loop.reactor.call_later(0.01, loop.hear, "called")
        cancelled.cancel()
        cancelled.cancel()
        assert loop.run_until(1) == ["called"]

    def test_can_cancel_one_another(self, loop: Loop) -> None:
        def cancel_second() -> None:
            loop.hear("first")
            second.cancel()

        loop.reactor.call_later(0, cancel_second)
        second = loop.reactor.call_later(0, loop.hear, "second")
        loop.reactor.call_later(0.01, loop.hear, "third")
        assert loop.run_until(2) == ["first", "third"]

    def test_that_come_while_the_loop_waits_for_later_ones_wake_it(self, loop: Loop) -> None:
        lock = threading.RLock()
        loop.reactor.call_later(TIMEOUT, loop.hear, "never")
        thread = loop.run_elsewhere(lock)
        begun = time.monotonic()
        with lock:
            loop.reactor.call_later(0.01, loop.hear, "soon")
        eventually(lambda: loop.heard)
        assert time.monotonic() - begun < TIMEOUT / 2
        loop.end(thread)


class TestPosted:
    def test_calls_are_made_in_order_by_the_thread_that_runs_the_loop(self, loop: Loop) -> None:
        thread = loop.run_elsewhere()
        for number in range(1000):
            loop.reactor.post(lambda n: loop.hear((n, threading.get_ident())), number)
        eventually(lambda: len(loop.heard) == 1000)
        assert loop.heard == [(number, thread.ident) for number in range(1000)]
        loop.end(thread)

    def test_none_is_lost_whoever_posts(self, loop: Loop) -> None:
        thread = loop.run_elsewhere()

        def post() -> None:
            for _ in range(2000):
                loop.reactor.post(loop.hear, threading.get_ident())

        posters = [threading.Thread(target=post) for _ in range(4)]
        for poster in posters:
            poster.start()
        for poster in posters:
            poster.join(TIMEOUT)
        eventually(lambda: len(loop.heard) == 8000)
        loop.end(thread)

    def test_one_that_posts_the_next_keeps_nobody_from_being_heard(self, loop: Loop) -> None:
        def again() -> None:
            loop.reactor.post(again)

        again()
        loop.reactor.call_later(0.01, loop.hear, "timer")
        assert loop.run_until(1) == ["timer"]

    def test_what_was_posted_before_anybody_ran_is_called(self, loop: Loop) -> None:
        loop.reactor.post(loop.hear, "early")
        assert loop.run_until(1) == ["early"]


class TestDescriptors:
    def test_who_cannot_watch_one_is_not_kept_for_it(self, loop: Loop, tmp_path: Path) -> None:
        with (tmp_path / "file").open("w") as file:  # which epoll does not take
            with pytest.raises(PermissionError):
                loop.reactor.watch(file.fileno(), READ, loop.hear)
            assert file.fileno() not in loop.reactor._watched

    def test_events_are_told_until_they_are_forgotten(
        self, loop: Loop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair

        def read(events: int) -> None:
            loop.hear((events, ours.recv(1)))
            if len(loop.heard) == 2:
                loop.reactor.forget(ours.fileno())
                loop.reactor.call_later(0.02, loop.hear, "end")

        loop.reactor.watch(ours.fileno(), READ, read)
        theirs.send(b"abc")
        assert loop.run_until(3) == [(READ, b"a"), (READ, b"b"), "end"]

    def test_other_events_can_be_asked_for(
        self, loop: Loop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        loop.reactor.watch(ours.fileno(), READ, loop.hear)
        loop.reactor.change(ours.fileno(), WRITE)
        theirs.send(b"a")
        assert set(loop.run_until(1)) == {WRITE}

    def test_one_that_is_closed_by_an_earlier_event_is_not_told(self, loop: Loop) -> None:
        """Another connection may have its number by then."""
        pairs = [socket.socketpair() for _ in range(2)]

        def close_both(_events: int) -> None:
            for ours, _ in pairs:
                loop.reactor.forget(ours.fileno())
            loop.hear("closed")

        for ours, theirs in pairs:
            loop.reactor.watch(ours.fileno(), READ, close_both)
            theirs.send(b"a")
        loop.reactor.call_later(0.01, loop.hear, "end")
        assert loop.run_until(2) == ["closed", "end"]
        for ours, theirs in pairs:
            ours.close()
            theirs.close()

    def test_to_forget_twice_does_nothing(
        self, loop: Loop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, _ = pair
        loop.reactor.watch(ours.fileno(), READ, loop.hear)
        loop.reactor.forget(ours.fileno())
        loop.reactor.forget(ours.fileno())


class TestTurns:
    def test_what_is_left_when_one_ends_is_for_the_next(self, loop: Loop) -> None:
        """A thread that leaves in the middle of a batch drops its rest, and nothing is lost."""
        pairs = [socket.socketpair() for _ in range(3)]

        def read(ours: socket.socket) -> Callable[[int], None]:
            def told(_events: int) -> None:
                loop.hear(ours.recv(1))
                loop.turn.end()

            return told

        for number, (ours, theirs) in enumerate(pairs):
            loop.reactor.watch(ours.fileno(), READ, read(ours))
            theirs.send(b"%d" % number)
        loop.reactor.post(loop.hear, "posted")
        loop.reactor.call_later(0, loop.hear, "due")
        for heard in range(1, 4):
            loop.turn.steers = True
            loop.reactor.run(loop.turn, nullcontext())
            assert len(loop.heard) == heard
        assert sorted(map(str, loop.run_until(5))) == ["b'0'", "b'1'", "b'2'", "due", "posted"]
        for ours, theirs in pairs:
            ours.close()
            theirs.close()

    def test_one_that_a_posted_call_ends_leaves_the_other_calls(self, loop: Loop) -> None:
        loop.reactor.post(loop.turn.end)
        loop.reactor.post(loop.hear, "next")
        loop.turn.steers = True
        loop.reactor.run(loop.turn, nullcontext())
        assert loop.heard == []
        assert loop.run_until(1) == ["next"]

    def test_another_thread_has_the_lock_while_the_loop_waits(self, loop: Loop) -> None:
        lock = threading.RLock()
        thread = loop.run_elsewhere(lock)
        assert lock.acquire(timeout=TIMEOUT)
        loop.reactor.post(loop.hear, "posted")
        time.sleep(0.02)
        assert loop.heard == []
        lock.release()
        eventually(lambda: loop.heard)
        loop.end(thread)


class TestBugs:
    """What raises is reported, and what comes after it is seen to."""

    def fail(self, *_: object) -> None:
        raise RuntimeError("a bug")

    @pytest.fixture(autouse=True)
    def reported(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        with caplog.at_level(logging.ERROR, "obworker.http"):
            yield
        (record,) = caplog.get_records("call")
        assert record.getMessage() == "a bug in obworker, which goes on"

    def test_in_a_posted_call(self, loop: Loop) -> None:
        loop.reactor.post(self.fail)
        loop.reactor.post(loop.hear, "next")
        assert loop.run_until(1) == ["next"]

    def test_in_a_timer(self, loop: Loop) -> None:
        loop.reactor.call_later(0, self.fail)
        loop.reactor.call_later(0, loop.hear, "next")
        assert loop.run_until(1) == ["next"]

    def test_in_what_an_event_calls_which_is_told_no_more(
        self, loop: Loop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        theirs.send(b"a")
        loop.reactor.watch(ours.fileno(), READ, self.fail)
        loop.reactor.call_later(0.02, loop.hear, "timer")
        assert loop.run_until(1) == ["timer"]


def test_a_loop_without_anything_to_do_does_not_run(loop: Loop) -> None:
    thread = loop.run_elsewhere()
    loop.reactor.call_later(0.3, loop.hear, "end")
    before = time.process_time()
    eventually(lambda: loop.heard)
    assert time.process_time() - before < 0.15
    loop.end(thread)


def test_it_leaves_no_descriptor_behind() -> None:
    process = psutil.Process()
    before = process.num_fds()
    Reactor().close()
    assert process.num_fds() == before
