"""When to try again and when to give up. Pure: no clock, no random source of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next try, in seconds."""

    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    jitter: float = 0.2
    """How far a wait may differ either way, so that workers do not restart in step."""

    def wait(self, failures: int, chance: float) -> float:
        """Return the wait after so many failures in a row; `chance` is from 0 to 1."""
        if failures <= 0:
            return 0.0
        exponent = min(failures - 1, 32)
        planned = min(self.first * self.factor**exponent, self.longest)
        return planned * (1 + self.jitter * (2 * chance - 1))


@dataclass
class RestartPolicy:
    """Decides for one process that is kept alive, from how its lives ended.

    A process that ended before it was ready failed. One that was ready and ended crashed: the first
    crash costs no wait, because most have nothing to do with the start; more in a row do. A life
    of `healthy_seconds` after ready wipes the slate.
    """

    chance: Callable[[], float]
    backoff: Backoff = field(default_factory=Backoff)
    healthy_seconds: float = 60.0
    failures: int = 0

    def ended(self, *, ready_for: float | None) -> float:
        """Count an end and return the wait before the next start, in seconds.

        `ready_for` is how long the process was ready, None if it never was.
        """
        if ready_for is not None and ready_for >= self.healthy_seconds:
            self.failures = 0
        self.failures += 1
        free = 1 if ready_for is not None else 0
        return self.backoff.wait(self.failures - free, self.chance())


@dataclass
class BootPolicy:
    """Gives up on a generation of which nothing was ever ready."""

    max_failures: int = 5
    failures: int = 0
    was_ever_ready: bool = False

    def ready(self) -> None:
        """Note that a worker became ready: from now on, failures are retried for ever."""
        self.was_ever_ready = True

    def failed(self, *, certain: bool) -> bool:
        """Count a boot that failed; return whether to give up.

        `certain` says that trying again would fail the same way: the predictor itself raised.
        """
        self.failures += 1
        return not self.was_ever_ready and (certain or self.failures >= self.max_failures)
