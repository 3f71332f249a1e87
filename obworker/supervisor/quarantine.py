"""Which devices have failed so often that they are not used for a while. Pure.

Three failures within ten minutes are no accident. Most are the fault of the device; a few may be
that of a request that makes a kernel fail, so no quarantine is for ever.

A hardware fault ends the contexts of all processes on the device. Each process notices when it next
uses the device: within a second under load, else in its health check. So if two processes fail soon
after each other, and the second existed before the first failed, that is one failure. A process
made after that has tried the device anew: if it fails, too, that is another failure, however soon.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_FAILURES = 3
WINDOW = 600.0
DURATION = 600.0
# If no other device is left, nothing is gained by waiting longer.
DURATION_WITHOUT_OTHERS = 60.0
# Three health checks at their default interval.
NOTICED_WITHIN = 30.0


@dataclass(frozen=True)
class Hold:
    """Why a device is not used, and until when."""

    reason: str
    until: float


class Quarantine:
    """Counts the failures of devices, by name."""

    def __init__(self) -> None:
        self._failures: dict[str, list[float]] = {}
        self._holds: dict[str, Hold] = {}

    def hold(self, device: str) -> Hold | None:
        """Return the hold on a device, None if it is not in quarantine."""
        return self._holds.get(device)

    def failed(self, device: str, reason: str, now: float, *, since: float) -> Hold | None:
        """Count a failure, unless it is part of the last one; return the hold that follows, if any.

        `since` is when the process that failed was made.
        """
        recent = [then for then in self._failures.get(device, ()) if then > now - WINDOW]
        if recent and since < recent[-1] and now < recent[-1] + NOTICED_WITHIN:
            return None
        self._failures[device] = recent = [*recent, now]
        if len(recent) < MOST_FAILURES or device in self._holds:
            return None
        self._holds[device] = hold = Hold(reason, now + DURATION)
        return hold

    def release(self, now: float) -> list[str]:
        """Give back, and return, the devices whose hold is over by `now`; counts start anew."""
        devices = [device for device, hold in self._holds.items() if hold.until <= now]
        for device in devices:
            del self._holds[device], self._failures[device]
        return devices
