"""Clients that send broken requests, and one that sends good ones; each runs in a thread."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from corpus.mutation import cut, mutated
from scorecards.clients import ask

# Longer than any timeout of the server that may apply to a client which has sent everything.
LONGEST_SECONDS = 15.0
LONGEST_GOOD_SECONDS = 5.0
GOOD_EVERY_SECONDS = 0.05
MOST_REQUESTS = 4


@dataclass
class Tally:
    """The record of all clients; a failure has the bytes that were sent."""

    connections: int = 0
    requests: int = 0
    good: int = 0
    slowest: float = 0.0
    slowest_good: float = 0.0
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ended(self, took: float, sent: Sequence[bytes]) -> None:
        """Count a connection of broken requests."""
        with self.lock:
            self.connections += 1
            self.requests += len(sent)
            self.slowest = max(self.slowest, took)

    def answered(self, took: float) -> None:
        """Count a good request."""
        with self.lock:
            self.good += 1
            self.slowest_good = max(self.slowest_good, took)

    def fail(self, what: str) -> None:
        """Note what went wrong."""
        with self.lock:
            self.failures.append(what)


def send_broken(port: int, tally: Tally, is_over: Callable[[], bool], random: Random) -> None:
    """Send broken requests over one connection after another."""
    while not is_over():
        sent = [mutated(random) for _ in range(random.randint(1, MOST_REQUESTS))]
        started = time.monotonic()
        try:
            with socket.create_connection(("127.0.0.1", port), LONGEST_SECONDS) as connection:
                _converse(connection, sent, random)
        except TimeoutError:
            tally.fail(f"no end after {LONGEST_SECONDS:g} s of {sent!r}")
        except OSError as error:
            tally.fail(f"{error} after {sent!r}")
        tally.ended(time.monotonic() - started, sent)


def _converse(connection: socket.socket, sent: Sequence[bytes], random: Random) -> None:
    """Send all pieces, then read to the end of the connection or reset it."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    # The server may close or reset the connection while the client sends more than it reads.
    with _suppress_end():
        for raw in sent:
            for piece in cut(raw, random):
                connection.sendall(piece)
        if random.random() < 0.1:
            return
        connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + LONGEST_SECONDS
        while connection.recv(1 << 16):
            if time.monotonic() > end:  # the socket's own timeout starts again with each byte
                raise TimeoutError


@contextmanager
def _suppress_end() -> Iterator[None]:
    """Ignore the errors that say that the server has ended the connection."""
    try:
        yield
    except (ConnectionResetError, BrokenPipeError):
        pass
    except OSError as error:
        if error.errno != errno.ENOTCONN:  # from shutdown(2) after a reset has arrived
            raise


def send_good(port: int, tally: Tally, is_over: Callable[[], bool]) -> None:
    """Send good requests one after another."""
    while not is_over():
        result = ask(port, timeout=LONGEST_GOOD_SECONDS)
        if not result.ok:
            tally.fail(f"a good request: {result}")
        tally.answered(result.latency)
        time.sleep(GOOD_EVERY_SECONDS)
