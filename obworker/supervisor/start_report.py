"""What people are told of a start: what was found, and where it serves."""

from __future__ import annotations

import logging

from obworker.settings import without_effect
from obworker.supervisor.listeners import Address, Listeners
from obworker.supervisor.messages import Loaded
from obworker.supervisor.plan import Plan

logger = logging.getLogger("obworker.master")


class StartReport:
    """The lines of the log; `is_over` is whether the last one, where it serves, was told."""

    is_over = False

    def __init__(self, listeners: Listeners, admin: Address | None) -> None:
        self._listeners = listeners
        self._admin = admin
        self._body_kind = "none"

    def found(self, loaded: Loaded, plan: Plan, workers: int) -> None:
        """Say what was imported; all of it once, for a later mold mostly finds the same."""
        if not self.is_over:
            for label, text in loaded.description:
                logger.info("%-10s %s", label, text)
            self.shares(plan, workers)
        if idle := without_effect(plan.given, loaded.lacks):
            logger.warning("%-10s %s", "no effect", idle)
        logger.info("%-10s in %.2f s", "imported", loaded.seconds)
        self._body_kind = loaded.body_kind

    def shares(self, plan: Plan, workers: int) -> None:
        """Say what workers that are made from now on have of the processors."""
        for label, text in plan.shares(max(1, workers)):
            logger.info("%-10s %s", label, text)

    def serves(self) -> None:
        """Say where it serves, once."""
        if self.is_over:
            return
        self.is_over = True
        for address in self._listeners.addresses:
            logger.info("%-10s %s", "serving", address.shown)
        first = self._listeners.addresses[0]
        logger.info("%-10s %s", "try", first.curl(self._body_kind))
        if self._admin is not None:
            logger.info("%-10s %s", "admin", self._admin.shown)
