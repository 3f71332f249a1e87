"""A non-blocking client connection, which sends a request and receives the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.load import CLOSE, LENGTH

if TYPE_CHECKING:
    import socket

    from benchmarks.outcomes import Outcome

_END = b"\r\n\r\n"


class Connection:
    """A socket, the request that is sent on it, and the part of the answer that has arrived."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.outcome: Outcome | None = None
        self.unsent: list[memoryview] = []
        self.received = bytearray()
        self.whole = 0

    def send(self) -> None:
        """Send as much as the kernel takes; raises OSError."""
        assert self.socket
        while self.unsent:
            try:
                count = self.socket.send(self.unsent[0])
            except BlockingIOError:
                return
            if count < len(self.unsent[0]):
                self.unsent[0] = self.unsent[0][count:]
            else:
                del self.unsent[0]

    def receive(self) -> bool:
        """Read what has arrived; return False at the end of the stream; raises OSError."""
        assert self.socket
        try:
            arrived = self.socket.recv(262144)
        except BlockingIOError:
            return True
        self.received += arrived
        return bool(arrived)

    def start(self, outcome: Outcome) -> None:
        """Begin to send a request."""
        self.outcome = outcome
        self.unsent = [memoryview(part) for part in outcome.message]
        self.received.clear()
        self.whole = 0

    def is_answered(self) -> bool:
        """Tell whether the answer is complete; raises ValueError if it has no length."""
        if not self.whole and (end := self.received.find(_END)) >= 0:
            length = LENGTH.search(self.received, 0, end + 2)
            if length is None:
                raise ValueError("an answer without Content-Length")
            self.whole = end + len(_END) + int(length[1])
        return 0 < self.whole <= len(self.received)

    def status(self) -> int:
        """Return the status of the answer."""
        return int(self.received[9:12])

    def closes(self) -> bool:
        """Tell whether the answer announces the end of the connection."""
        return CLOSE.search(self.received, 0, self.received.find(_END) + 2) is not None
