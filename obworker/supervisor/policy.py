"""When to try again and when to give up. Pure: it is given the time and the random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
# The share by which a wait varies either way, so that workers do not restart in step.
JITTER = 0.2
HEALTHY_AFTER = 60.0
# After so many failed boots, of some code or of one slot, it is no accident.
MOST_BOOT_FAILURES = 5


def backoff(failures: int, chance: float) -> float:
    """Return the wait in seconds after so many failures in a row; `chance` is from 0 to 1."""
    if failures <= 0:
        return 0.0
    planned = min(FIRST_WAIT * 2.0 ** min(failures - 1, 32), LONGEST_WAIT)
    return planned * (1 + JITTER * (2 * chance - 1))


@dataclass
class RestartPolicy:
    """Decides how long to wait before a process is started again, by how it has ended so far.

    An end before it was ready is a failure. An end after that is a crash: the first costs no wait,
    because most crashes have nothing to do with the start; more in a row do. HEALTHY_AFTER seconds
    of being ready reset the count.
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
        """Note that a worker is ready: from now on, failed boots are tried again for ever."""
        self.was_ever_ready = True

    def failed(self, *, certain: bool) -> bool:
        """Count a failed boot; return whether to give up.

        `certain` says that another try would fail the same way: the predictor itself raised.
        """
        self.failures += 1
        return not self.was_ever_ready and (certain or self.failures >= MOST_BOOT_FAILURES)
