"""The messages between master, mold and workers, and the channels that carry them.

    master → mold     Load, then Spawn for each process wanted
    mold → master     Loaded or Failed
    fork → master     Spawned (from between the two forks); from the worker: Ready or Failed, later
                      Recycle or Leaving
    master → worker   Serve once it is ready, Drain

A direct worker, which imports the code by itself, has one channel for all of them.

A channel is a SOCK_SEQPACKET pair: one message a packet, and end of file when the other side is
gone. A message is JSON, so a mold of another version of obworker is refused with a readable error.
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
# Characters of a text in a message: each may take six bytes as JSON, and there are three texts.
MAX_TEXT = 6 << 10


@dataclasses.dataclass(frozen=True)
class Load:
    """Import the user's code.

    `factory` is the name of a function that takes `arguments` and returns a Blueprint, or raises
    ObworkerError for the user's mistakes.
    `api_keys` are packed; if there are none, requests need no key.
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

    `lacks` is that of the blueprint. `unsafe` has the reasons why this process must not be forked,
    if any. `fingerprint` shows whether the code has changed since.
    """

    seconds: float
    description: list[list[str]]
    lacks: dict[str, str]
    body_kind: str
    unsafe: list[str]
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Failed:
    """The code cannot be loaded, or a worker of it cannot be made or cannot build its predictor.

    In the latter cases it `was_loaded`.
    """

    message: str
    hint: str | None
    exit_code: int
    traceback: str
    was_loaded: bool

    @classmethod
    def of(cls, error: ObworkerError, *, was_loaded: bool) -> Failed:
        """Return the message that reports an error."""
        return cls(str(error), error.hint, error.exit_code, error.traceback, was_loaded)

    @property
    def error(self) -> ObworkerError:
        """The error with which a start then ends."""
        if self.was_loaded:
            return BootError(self.message, self.hint)
        return LoadError(self.message, self.hint, exit_code=self.exit_code)


@dataclasses.dataclass(frozen=True)
class Spawn:
    """Fork a worker for a slot; the worker's end of its channel comes with the message.

    `seat` says which row of the scoreboard is its own. `environment` has the slot's variables, such
    as its devices. `pools` are the numbers of native threads, by kind of library. `cores` are the
    cores that it may use, all if empty.
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

    Before this a worker has accepted nothing, so it can be killed without a loss.
    """


@dataclasses.dataclass(frozen=True)
class Recycle:
    """The worker asks to be replaced, and serves until then."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Leaving:
    """The worker has begun to drain, by itself or because it was told to, and will exit.

    `device_lost` says that its GPU has failed, whose memory is not free before the worker's end.
    """

    reason: str
    device_lost: bool = False


@dataclasses.dataclass(frozen=True)
class Drain:
    """Accept nothing more, answer what has come, exit.

    With `empty_queue` it first accepts what waits in the listeners' queues, as nobody else will.
    If it is `final`, connections are closed; otherwise idle ones move to other workers.
    """

    empty_queue: bool
    final: bool


Message = Load | Loaded | Failed | Spawn | Spawned | Ready | Serve | Recycle | Leaving | Drain
_TYPES: dict[str, type[Message]] = {kind.__name__: kind for kind in typing.get_args(Message)}


def encode(message: Message) -> bytes:
    """Encode a message as one packet."""
    fields = {
        name: shorten(value) if isinstance(value, str) else value
        for name, value in dataclasses.asdict(message).items()
    }
    text = json.dumps([type(message).__name__, fields], ensure_ascii=False)
    # A lone surrogate, which UTF-8 cannot encode, becomes its escape in JSON.
    return text.encode("utf-8", "backslashreplace")


def decode(packet: bytes) -> Message:
    """Decode a packet.

    Raises:
        ValueError: it is no message of this version.
    """
    try:
        name, fields = json.loads(packet)
        return _TYPES[name](**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"not a message: {packet[:80]!r}") from error


def shorten(text: str) -> str:
    """Cut a text to what fits a message: its end, where a traceback says what happened."""
    return text if len(text) <= MAX_TEXT else "[…]\n" + text[-MAX_TEXT:]


class Channel:
    """One end of a channel."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return both ends of a new channel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """Return the descriptor, for a selector or an exec."""
        return self._socket.fileno()

    def send(self, message: Message, *, end: Channel | None = None) -> bool:
        """Send a message, maybe with the `end` of another channel; return False if nobody reads."""
        try:
            if end is None:
                self._socket.send(encode(message))
            else:
                socket.send_fds(self._socket, [encode(message)], [end.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> tuple[Message | None, Channel | None]:
        """Wait for a message; return it, and the end that it carries.

        None means that the other side is gone, or has sent what is no message: neither can be
        talked to.
        """
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1)
        except ConnectionResetError:
            packet, descriptors = b"", []
        end = Channel(socket.socket(fileno=descriptors[0])) if descriptors else None
        if end is not None:
            end.set_inheritable(False)  # as recv_fds makes it inheritable
        try:
            return (decode(packet) if packet else None), end
        except ValueError as error:
            logger.error("%s", error)
            return None, end

    def receive_all(self) -> list[Message | None]:
        """Return what has arrived, without waiting; the last is None if the other side is gone."""
        received: list[Message | None] = []
        if self.is_closed:
            return received
        with contextlib.suppress(BlockingIOError):
            while not received or received[-1] is not None:
                received.append(self.receive()[0])
        return received

    def last_words(self) -> list[Message]:
        """Make the other side's next send fail; return what it has sent before."""
        with contextlib.suppress(OSError):  # the other side has closed it
            self._socket.shutdown(socket.SHUT_RD)
        return [message for message in self.receive_all() if message is not None]

    @property
    def is_closed(self) -> bool:
        """Whether this end is closed."""
        return self._socket.fileno() < 0

    def set_blocking(self, blocking: bool) -> None:
        """Make `receive` wait, or raise BlockingIOError if nothing has arrived."""
        self._socket.setblocking(blocking)

    def set_inheritable(self, inheritable: bool) -> None:
        """Set whether the descriptor stays open across an exec."""
        self._socket.set_inheritable(inheritable)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
