"""What a request asks for, and whether a response is the right one. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from random import Random

from turmoil.answers import Answer

MOST_PADDING = 2_000_000
MOST_PARTS = 60


class Wrong(Exception):
    """A response is not the one to the request; the message has what came instead."""


@dataclass(frozen=True)
class Order:
    """A request: its id, how long predict sleeps, how large it is, how many parts it streams."""

    id: str
    sleep: float = 0.0
    padding: str = ""
    parts: int = 0

    def body(self) -> bytes:
        """Return the body of the request."""
        return json.dumps(asdict(self)).encode()

    def worker(self, answer: Answer) -> int:
        """Return the pid of the worker that sent this response.

        Raises:
            Wrong: it is not the response to this request.
        """
        try:
            if answer.status == 200 and answer.fields.get("x-request-id") == self.id:
                return self._streamed(answer) if self.parts else self._whole(answer)
        except (ValueError, KeyError, TypeError):
            pass
        raise Wrong(f"{answer.status} {answer.fields} {answer.body[-200:]!r}")

    def _whole(self, answer: Answer) -> int:
        found = json.loads(answer.body)
        if (found["id"], found["size"]) != (self.id, len(self.padding)):
            raise ValueError
        return int(found["pid"])

    def _streamed(self, answer: Answer) -> int:
        lines = answer.body.decode().splitlines()
        pid = lines[0].split()[2] if lines else ""
        if lines != [f"{self.id} {number} {pid}" for number in range(self.parts)]:
            raise ValueError
        return int(pid)


def short(id: str, random: Random) -> Order:
    """Return a request that takes no time, or some hundredths of a second."""
    return Order(id, sleep=random.choice([0, 0, 0.01, 0.03]))


def large(id: str, random: Random) -> Order:
    """Return a request with a body of up to 2 MB."""
    return Order(id, padding="z" * random.randrange(MOST_PADDING))


def streamed(id: str, random: Random) -> Order:
    """Return a request for a streamed response."""
    return Order(id, parts=random.randrange(1, MOST_PARTS))
