"""What the log says of a start: what was found, and where it serves."""

from __future__ import annotations

import logging

from obworker.settings import without_effect
from obworker.supervisor.listeners import Address, Listeners
from obworker.supervisor.messages import Loaded
from obworker.supervisor.plan import Plan

logger = logging.getLogger("obworker.master")


class StartReport:
    """Logs the report; `is_over` says whether the last part, where it serves, was logged."""

    is_over = False

    def __init__(self, listeners: Listeners, admin: Address | None) -> None:
        self._listeners = listeners
        self._admin = admin
        self._body_kind = "none"

    def found(self, loaded: Loaded, plan: Plan, workers: int) -> None:
        """Log what was imported; the whole report once, as later imports mostly find the same."""
        if not self.is_over:
            for label, text in loaded.description:
                logger.info("%-10s %s", label, text)
            self.shares(plan, workers)
        if idle := without_effect(plan.given, loaded.lacks):
            logger.warning("%-10s %s", "no effect", idle)
        logger.info("%-10s in %.2f s", "imported", loaded.seconds)
        self._body_kind = loaded.body_kind

    def shares(self, plan: Plan, workers: int) -> None:
        """Log the share of the cores that workers made from now on have."""
        for label, text in plan.shares(max(1, workers)):
            logger.info("%-10s %s", label, text)

    def serves(self) -> None:
        """Log where it serves, once."""
        if self.is_over:
            return
        self.is_over = True
        for address in self._listeners.addresses:
            logger.info("%-10s %s", "serving", address.shown)
        first = self._listeners.addresses[0]
        logger.info("%-10s %s", "try", first.curl(self._body_kind))
        if self._admin is not None:
            logger.info("%-10s %s", "admin", self._admin.shown)
