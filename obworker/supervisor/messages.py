"""What master, mold and workers tell one another, and the channel that carries it.

    master → mold     Load, then Spawn for each process wanted
    mold → master     Loaded or Failed
    fork → master     Spawned (from between the two forks); from the worker: Ready or Failed, later
                      Recycle or Leaving
    master → worker   Serve once it is ready, Drain

A direct worker, which imports the code by itself, is told and tells all of it on one channel.

A channel is a SOCK_SEQPACKET pair: one message a packet, and end of file when the other side is
gone. A message is JSON, so that a mold of another version of obworker is refused in words.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import socket
import typing
from typing import Any

from obworker.errors import BootError, LoadError, ObworkerError

logger = logging.getLogger("obworker.master")

# Below the default net.core.wmem_default (212,992), so that a packet always fits.
MAX_MESSAGE_BYTES = 128 << 10
# Characters of a text in a message. As JSON one may take six bytes, and there are three texts.
MAX_TEXT = 6 << 10


@dataclasses.dataclass(frozen=True)
class Load:
    """Import the user's code.

    `factory` is the name of a function that takes `arguments` and returns a Blueprint, or raises
    ObworkerError for the user's mistakes.
    `api_keys` are packed; without any, none is asked for.
    """

    generation: int
    factory: str
    arguments: dict[str, Any]
    settings: dict[str, Any]
    label: str
    api_keys: list[str]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The import is done; `description` is for the start-up report.

    `lacks` says what options need of a predictor and this one has not got. `unsafe` says why this
    process must not be forked, if so. `fingerprint` tells the code apart from code that has changed
    since.
    """

    seconds: float
    description: list[list[str]]
    lacks: dict[str, str]
    body_kind: str
    unsafe: list[str]
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Failed:
    """The code cannot be served; whoever says so is about to exit.

    Where it `was_loaded`, a worker could not build its predictor.
    """

    message: str
    hint: str | None
    exit_code: int
    traceback: str
    was_loaded: bool

    @classmethod
    def of(cls, error: ObworkerError, *, was_loaded: bool) -> Failed:
        """Return what tells the master of an error."""
        return cls(str(error), error.hint, error.exit_code, error.traceback, was_loaded)

    @property
    def error(self) -> ObworkerError:
        """The error that a start ends with for it."""
        if self.was_loaded:
            return BootError(self.message, self.hint)
        return LoadError(self.message, self.hint, exit_code=self.exit_code)


@dataclasses.dataclass(frozen=True)
class Spawn:
    """Fork a worker for a slot; its end of a channel to the master comes with the message.

    `seat` is its row of the scoreboard. `environment` is the slot's: its devices first. `pools` are
    the threads of native libraries, by kind. `cores` are those it may use; without any, all.
    """

    slot: int
    seat: int
    environment: dict[str, str]
    pools: dict[str, int]
    cores: list[int]
    title: str


@dataclasses.dataclass(frozen=True)
class Spawned:
    """The worker's process exists; the master will be its parent."""

    pid: int


@dataclasses.dataclass(frozen=True)
class Ready:
    """The worker has built its predictor and can serve."""


@dataclasses.dataclass(frozen=True)
class Serve:
    """Accept connections.

    Until it is told so, a worker has accepted nothing and can be killed without a loss.
    """


@dataclasses.dataclass(frozen=True)
class Recycle:
    """The worker serves on, but asks to be replaced."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Leaving:
    """The worker has begun to drain, on its own account or told to, and will exit.

    Where its GPU failed it holds the memory that it has there until it has ended.
    """

    reason: str
    device_lost: bool = False


@dataclasses.dataclass(frozen=True)
class Drain:
    """Accept nothing more, answer what has come, exit.

    `empty_queue` says to take first what waits in the listener's queue: nobody else will. Where it
    is `final` connections end; otherwise those that are idle go to other workers.
    """

    empty_queue: bool
    final: bool


Message = Load | Loaded | Failed | Spawn | Spawned | Ready | Serve | Recycle | Leaving | Drain
_TYPES: dict[str, type[Message]] = {kind.__name__: kind for kind in typing.get_args(Message)}


def encode(message: Message) -> bytes:
    """Write a message as one packet."""
    fields = {
        name: shorten(value) if isinstance(value, str) else value
        for name, value in dataclasses.asdict(message).items()
    }
    text = json.dumps([type(message).__name__, fields], ensure_ascii=False)
    # What UTF-8 cannot hold, a lone surrogate, is then written as JSON's escape for it.
    return text.encode("utf-8", "backslashreplace")


def decode(packet: bytes) -> Message:
    """Read a packet.

    Raises:
        ValueError: it is no message of this version.
    """
    try:
        name, fields = json.loads(packet)
        return _TYPES[name](**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"not a message: {packet[:80]!r}") from error


def shorten(text: str) -> str:
    """Keep what fits a message: the end of a text, where a traceback says what happened."""
    return text if len(text) <= MAX_TEXT else "[…]\n" + text[-MAX_TEXT:]


class Channel:
    """One end of a channel."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Make both ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """Return the descriptor, for a selector and for an exec."""
        return self._socket.fileno()

    def send(self, message: Message, *, end: Channel | None = None) -> bool:
        """Send a message, with the end of another channel; return whether anyone can read it."""
        try:
            if end is None:
                self._socket.send(encode(message))
            else:
                socket.send_fds(self._socket, [encode(message)], [end.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> tuple[Message | None, Channel | None]:
        """Wait for a message; None when the other side is gone.

        A packet that is no message counts as its end: whoever wrote it cannot be talked to.
        """
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1)
        except ConnectionResetError:
            packet, descriptors = b"", []
        end = Channel(socket.socket(fileno=descriptors[0])) if descriptors else None
        if end is not None:
            end.set_inheritable(False)  # recv_fds leaves it open for every program that is run
        try:
            return (decode(packet) if packet else None), end
        except ValueError as error:
            logger.error("%s", error)
            return None, end

    def receive_all(self) -> list[Message | None]:
        """Return what has come, without waiting; the last is None when the other side is gone."""
        received: list[Message | None] = []
        if self.is_closed:
            return received
        with contextlib.suppress(BlockingIOError):
            while not received or received[-1] is not None:
                received.append(self.receive()[0])
        return received

    def last_words(self) -> list[Message]:
        """Let the other side send nothing more, which it is told; return what it had sent."""
        with contextlib.suppress(OSError):  # it has hung up itself
            self._socket.shutdown(socket.SHUT_RD)
        return [message for message in self.receive_all() if message is not None]

    @property
    def is_closed(self) -> bool:
        """Whether this end was closed."""
        return self._socket.fileno() < 0

    def set_blocking(self, blocking: bool) -> None:
        """Make `receive` wait, or raise BlockingIOError where nothing has come."""
        self._socket.setblocking(blocking)

    def set_inheritable(self, inheritable: bool) -> None:
        """Let the descriptor pass an exec, or not."""
        self._socket.set_inheritable(inheritable)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
