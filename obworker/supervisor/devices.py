"""Puts devices that fail into quarantine, and gives them back, for the master."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from obworker.errors import DeviceError
from obworker.supervisor.generations import Generations
from obworker.supervisor.gpus import Device
from obworker.supervisor.quarantine import (
    DURATION,
    DURATION_WITHOUT_OTHERS,
    MOST_FAILURES,
    WINDOW,
    Quarantine,
)
from obworker.supervisor.scoreboard import Scoreboard
from obworker.supervisor.slots import Seat
from obworker.supervisor.table import Table

logger = logging.getLogger("obworker.master")

ALL_HELD = "every GPU is in quarantine"
HINT = "nvidia-smi and the kernel's log (NVRM: Xid) say more"


class Devices:
    """The devices of all slots; `on_fatal` is called if none is left before a worker was ready."""

    def __init__(
        self,
        table: Table,
        generations: Generations,
        board: Scoreboard,
        *,
        on_fatal: Callable[[DeviceError], None],
    ) -> None:
        self._table = table
        self._generations = generations
        self._board = board
        self._on_fatal = on_fatal
        self._quarantine = Quarantine()

    def is_to_blame(self, device: Device, seat: Seat) -> bool:
        """Whether the failure of a worker is the fault of its device.

        It is that of the code if the slot has no device, or if the old worker serves on the device
        while the new one cannot boot.
        """
        is_beside = seat.ready_at is None and self._table.slots[seat.slot].serving is not None
        return bool(device.token) and not is_beside

    def failed(self, device: Device, seat: Seat, reason: str, now: float) -> None:
        """Account for a device that failed under the worker of a seat."""
        hold = self._quarantine.failed(device.label, reason, now, since=seat.spawned_at)
        if hold is None:
            return
        self._table.quarantine(self._is_held)
        slots = [str(slot.index) for slot in self._table.slots if self._is_held(slot.index)]
        logger.error(
            "%s is in quarantine: it failed %d times in %.0f minutes, at last with %s; "
            "it is not used for %.0f minutes, or until a reload (slots: %s)",
            *(device.label, MOST_FAILURES, WINDOW / 60, reason, DURATION / 60, ", ".join(slots)),
        )
        if not self._table.can_serve and self._table.rollout.is_proved:
            then = f"each is tried again after {DURATION_WITHOUT_OTHERS:.0f} s, or with a reload"
            logger.error("nobody serves: %s; %s; %s", ALL_HELD, then, HINT)

    def forbid(self, size: int) -> bool:
        """Whether `size` workers are too few: all their devices are in quarantine, but not all."""
        return self._table.can_serve and all(map(self._is_held, range(size)))

    def tend(self, now: float) -> None:
        """Update which slots are held: quarantines end, and other code may have other devices."""
        self._give_back(now + self._remission)
        self._judge()

    def give_back_all(self) -> None:
        """Give back all devices: by now they may have been repaired, or replaced by others."""
        self._give_back(math.inf)

    def publish(self) -> None:
        """Write to the scoreboard which slots are held."""
        for slot in self._table.slots:
            row, device = self._board.slot(slot.index), self._name(slot.index)
            hold = self._quarantine.hold(device)
            row.write_text("quarantine", "" if hold is None else hold.reason)
            row.quarantined_until = 0.0 if hold is None else hold.until - self._remission
            if hold is not None:  # a slot that was never filled has not shown its device
                row.write_text("device", device)

    @property
    def _remission(self) -> float:
        """How much sooner a quarantine is over if no device is left: then it only does harm."""
        return 0.0 if self._table.can_serve else DURATION - DURATION_WITHOUT_OTHERS

    def _judge(self) -> None:
        """If no device is left, make the start fail, or the reload."""
        if self._table.can_serve or self._table.stopping:
            return
        if not self._table.rollout.is_proved:
            self._on_fatal(DeviceError(f"no worker became ready: {ALL_HELD}", HINT))
        elif self._table.rollout.candidate is not None:
            self._generations.fail_reload(ALL_HELD)

    def _give_back(self, by: float) -> None:
        for device in self._quarantine.release(by):
            logger.info("%-10s %s is out of it, and tried again", "quarantine", device)
        self._table.quarantine(self._is_held)

    def _is_held(self, slot: int) -> bool:
        return self._quarantine.hold(self._name(slot)) is not None

    def _name(self, slot: int) -> str:
        rollout = self._table.rollout
        return self._generations.plan(rollout.candidate or rollout.current).device(slot).label
