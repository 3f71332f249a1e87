"""Which devices have failed so often that they are left alone for a while. Pure.

Three failures within ten minutes are no accident. Most are the fault of the device; a few may be
that of a request that a kernel cannot bear, so no quarantine is for ever.

A fault of the hardware ends the contexts of all processes on the device. Each notices when it next
uses it: under load within a second, without any by its health check. So what fails soon after
another and was there before that is one failure with it. A process that was made since has tried
the device anew: if it fails, too, that is another failure, however soon.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_FAILURES = 3
WINDOW = 600.0
DURATION = 600.0
# Nothing is spared by leaving the last device alone.
DURATION_WITHOUT_OTHERS = 60.0
# Three health checks at their default interval.
NOTICED_WITHIN = 30.0


@dataclass(frozen=True)
class Hold:
    """Why a device is left alone, and until when."""

    reason: str
    until: float


class Quarantine:
    """Counts the failures of devices, by name."""

    def __init__(self) -> None:
        self._failures: dict[str, list[float]] = {}
        self._holds: dict[str, Hold] = {}

    def hold(self, device: str) -> Hold | None:
        """Return why a device is in quarantine, if it is."""
        return self._holds.get(device)

    def failed(self, device: str, reason: str, now: float, *, since: float) -> Hold | None:
        """Count a failure, unless it is part of the last; return the hold that it leads to.

        The process to which it failed is there `since`.
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
        """Give back the devices whose time is over by `now`, and return them; each starts anew."""
        devices = [device for device, hold in self._holds.items() if hold.until <= now]
        for device in devices:
            del self._holds[device], self._failures[device]
        return devices
