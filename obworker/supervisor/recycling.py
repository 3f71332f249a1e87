"""When a worker without a fault is to be replaced. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# A worker whose model alone exceeds the limit would be replaced for ever, as fast as it boots.
LEAST_LIFE = 10.0
JITTER = 0.1


@dataclass(frozen=True)
class Recycling:
    """The limits of one worker: requests that it serves, and bytes that it holds; 0 is no limit."""

    max_requests: int
    max_memory: int

    @classmethod
    def draw(
        cls, max_requests: int, jitter: int | None, max_memory: int, chance: Callable[[], float]
    ) -> Recycling:
        """Return the limits of a new worker.

        `max_requests` is raised by up to `jitter`, None for a tenth of it: otherwise workers that
        began together would end together. `chance` gives numbers from 0 to 1.
        """
        most = int(max_requests * JITTER) if jitter is None else jitter
        return cls(max_requests + round(most * chance()) if max_requests else 0, max_memory)

    def why(self, *, requests: int, memory: int, served_for: float) -> str:
        """Return why the worker is to be replaced, empty if it is not."""
        if self.max_requests and requests >= self.max_requests:
            return f"has served {requests} requests"
        if self.max_memory and memory > self.max_memory and served_for >= LEAST_LIFE:
            return f"holds {_mebibytes(memory)}, more than {_mebibytes(self.max_memory)}"
        return ""


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
