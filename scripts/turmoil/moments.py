"""A monotonic instant → the time of day, as a server's log has it."""

from __future__ import annotations

import time


def time_of_day(at: float) -> str:
    """Return hours, minutes, seconds and milliseconds of local time."""
    moment = at + time.time() - time.monotonic()
    return f"{time.strftime('%H:%M:%S', time.localtime(moment))},{int(moment % 1 * 1000):03}"
