"""When to try again and when to give up. Pure: no clock, no random source of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
# How far a wait may differ either way, so that workers do not restart in step.
JITTER = 0.2
HEALTHY_AFTER = 60.0
# So many boots that fail, of code or of one slot's, show that it is no accident.
MOST_BOOT_FAILURES = 5


def backoff(failures: int, chance: float) -> float:
    """Return the wait after so many failures in a row, in seconds; `chance` is from 0 to 1."""
    if failures <= 0:
        return 0.0
    planned = min(FIRST_WAIT * 2.0 ** min(failures - 1, 32), LONGEST_WAIT)
    return planned * (1 + JITTER * (2 * chance - 1))


@dataclass
class RestartPolicy:
    """Decides for one process that is kept alive, from how its lives ended.

    A process that ended before it was ready failed. One that was ready and ended crashed: the first
    crash costs no wait, because most have nothing to do with the start; more in a row do. A life
    of HEALTHY_AFTER seconds after ready wipes the slate.
    """

    chance: Callable[[], float]
    failures: int = 0

    def ended(self, now: float, *, ready_at: float | None) -> float:
        """Count an end and return the wait before the next start, in seconds.

        `ready_at` is when the process became ready, None if it never did.
        """
        if ready_at is not None and now - ready_at >= HEALTHY_AFTER:
            self.failures = 0
        self.failures += 1
        free = 1 if ready_at is not None else 0
        return backoff(self.failures - free, self.chance())


@dataclass
class BootPolicy:
    """Gives up on a generation of which nothing was ever ready."""

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
        return not self.was_ever_ready and (certain or self.failures >= MOST_BOOT_FAILURES)
