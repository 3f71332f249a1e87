"""When the user's code is imported, and what follows when that fails.

Theory of operation
-------------------
A generation is one import of the user's code, numbered from 1. If the first cannot be loaded, there
is nothing to serve and the start fails. Later there are two reasons to load:

*A reload* is requested. The new generation is loaded beside the current one and, once loaded, given
to the table as its candidate; rollout.py does the rest. Until it has become the current one, a
failure ends the reload and nothing else. A newer request replaces an older one.

*The mold died* by itself. Workers do not need it and continue to serve; the code is loaded again so
that more of them can be forked. If its files are unchanged, this continues the current generation.
If they have changed, it becomes a reload that nobody requested, so that code is never mixed.

An import, or what is preloaded after it, can make forking unsafe (fork_safety.py). Then the mold is
killed, and each worker of that generation is a *direct* worker, which imports the code by itself.
"""

from __future__ import annotations

import logging
import random
import selectors
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from obworker.errors import BootError, LoadError, ObworkerError
from obworker.supervisor import exits, linux
from obworker.supervisor.alarm import earliest
from obworker.supervisor.commands import nobody
from obworker.supervisor.messages import Failed, Loaded
from obworker.supervisor.molds import Descriptors, Mold, Molds
from obworker.supervisor.plan import Plan
from obworker.supervisor.policy import MOST_BOOT_FAILURES, RestartPolicy
from obworker.supervisor.table import Table

logger = logging.getLogger("obworker.master")


@dataclass
class Reload:
    """A reload in progress; at its end `answer` is called with why it failed, or an empty text.

    `failures` counts, by slot, the boots that failed after the code had become the current one.
    """

    generation: int
    requested_at: float
    answer: Callable[[str], None] = nobody
    failures: Counter[int] = field(default_factory=Counter)


class Generations:
    """The current generation and the newest one, and their molds.

    `on_report` is called with what an import found and its plan, `on_fatal` with an error that ends
    the start, `on_reloaded` with why a reload failed, or an empty text.
    """

    def __init__(
        self,
        plan: Plan,
        table: Table,
        descriptors: Descriptors,
        selector: selectors.BaseSelector,
        *,
        on_report: Callable[[Loaded, Plan], None],
        on_fatal: Callable[[ObworkerError], None],
        on_reloaded: Callable[[str], None],
    ) -> None:
        self.molds = Molds(
            descriptors, selector, on_loaded=self._loaded, on_failed=self._load_failed
        )
        self.reloading: Reload | None = None
        self._table = table
        self._plans = {1: plan}
        self._newest = 1
        self._direct: set[int] = set()
        self._fingerprints: dict[int, str] = {}
        self._on_report = on_report
        self._on_fatal = on_fatal
        self._on_reloaded = on_reloaded
        self._remake_due = 0.0
        self._remakes = RestartPolicy(random.random)
        self._stopping = False

    def plan(self, generation: int) -> Plan:
        """Return the plan of a generation."""
        return self._plans[generation]

    def size(self, generation: int) -> int:
        """Return how many workers are wanted once that generation serves."""
        current, plan = self._plans[self._table.rollout.current], self._plans[generation]
        return self._table.wanted if plan.workers == current.workers else plan.workers

    def is_direct(self, generation: int) -> bool:
        """Whether each worker of a generation imports the code by itself."""
        return generation in self._direct

    def can_spawn(self, generation: int) -> bool:
        """Whether a worker of a generation can be made now."""
        return not self._stopping and (
            self.is_direct(generation) or self.molds.can_fork(generation)
        )

    # requests

    def reload(self, plan: Plan, now: float, answer: Callable[[str], None]) -> None:
        """Load the code anew and roll it out; this ends a reload that is in progress."""
        if self.reloading is not None:
            self.reloading.answer("a newer reload took its place")
        rollout = self._table.rollout
        rollout.drop_candidate()
        self.molds.dismiss(spare=rollout.current if rollout.is_proved else None)
        self.reloading = Reload(self._newest + 1, now, answer)
        self._load(plan, now)

    def _load(self, plan: Plan, now: float) -> None:
        self._newest += 1
        current = self._table.rollout.current
        self._plans = {current: self._plans[current], self._newest: plan}
        self._begin(self._newest, now)

    def start(self, now: float) -> None:
        """Load the first generation."""
        self._begin(1, now)

    def _begin(self, generation: int, now: float) -> None:
        plan = self._plans[generation]
        if plan.settings.preload == "off":
            self._direct.add(generation)
            self._hand_over(generation)
            return
        try:
            self.molds.start(generation, plan, now)
        except OSError as error:
            self._failed(
                generation, LoadError(f"no mold can be made: {linux.why_no_process(error)}"), now
            )

    def stop(self) -> None:
        """Load nothing any more, and end a reload that is in progress."""
        self._stopping = True
        self.molds.dismiss()
        self._end_reload("obworker was told to stop")

    # events

    def _loaded(self, mold: Mold, loaded: Loaded) -> None:
        """Roll out the code of a mold, or continue the current generation with it."""
        self._on_report(loaded, mold.plan)
        self._fingerprints[mold.generation] = loaded.fingerprint
        if loaded.unsafe and mold.plan.settings.preload == "auto":
            logger.warning(
                "%s: each worker imports and preloads %s by itself; see --preload",
                "; ".join(loaded.unsafe),
                mold.plan.label,
            )
            self._direct.add(mold.generation)
            mold.dismissed = True
            self.molds.kill(mold.generation)
        if self._continues(mold.generation, loaded):
            self._table.rollout.continue_as(mold.generation)
        else:
            self._hand_over(mold.generation)

    def _continues(self, generation: int, loaded: Loaded) -> bool:
        """Whether this is the current code, loaded again; changed code becomes a reload."""
        reload = self.reloading
        if generation == 1 or (reload is not None and reload.generation == generation):
            return False
        is_same = loaded.fingerprint == self._fingerprints.get(self._table.rollout.current)
        if not is_same:
            logger.warning("the code has changed since it was loaded: rolling it out")
        if reload is not None:
            reload.generation = generation
        elif not is_same:
            self.reloading = Reload(generation, time.monotonic())
        return is_same

    def _hand_over(self, generation: int) -> None:
        if generation > 1:
            self._table.rollout.reload(generation)
        if self._table.rollout.current == generation:
            self.molds.dismiss(spare=generation)

    def loaded_directly(self, generation: int, loaded: Loaded) -> None:
        """Note what a direct worker imported; warn if that differs from the others."""
        if not self._table.rollout.knows(generation):
            return
        known = self._fingerprints.get(generation)
        if known is None:
            self._fingerprints[generation] = loaded.fingerprint
            self._on_report(loaded, self._plans[generation])
        elif loaded.fingerprint != known:
            logger.warning("the code has changed since the other workers loaded it: reload")

    def committed(self) -> None:
        """Dismiss all molds but the current one, and forget the plans of older generations."""
        current = self._table.rollout.current
        self.molds.dismiss(spare=current)
        self._plans = {number: plan for number, plan in self._plans.items() if number >= current}

    def boot_failed(self, generation: int, slot: int, how: str) -> None:
        """Account for a worker that was never ready.

        With current code the slot is tried for ever, but after some failures the reload ends.
        """
        reload = self.reloading
        current = self._table.rollout.current
        if reload is None or not generation == reload.generation == current:
            return
        reload.failures[slot] += 1
        if reload.failures[slot] >= MOST_BOOT_FAILURES:
            logger.error("the reload does not get past slot %d, which is tried again", slot)
            self._end_reload(f"slot {slot}: {how}")

    def _load_failed(self, mold: Mold, failure: Failed) -> None:
        """Account for an import that failed; its process is about to exit."""
        mold.dismissed = True
        if failure.traceback:
            logger.error("%s", failure.traceback.rstrip())
        self._failed(mold.generation, failure.error, time.monotonic())

    def mold_gone(self, mold: Mold, how: str, now: float) -> None:
        """Account for a mold that has ended, or that cannot be killed."""
        if mold.dismissed or self._stopping:
            return
        how = mold.reason + how
        if mold.loaded is None:
            error = LoadError(f"{mold.plan.label}: the process that imports it {how}")
            self._failed(mold.generation, error, now)
        elif mold.generation == self._table.rollout.candidate:
            self.fail_reload(f"the process that forks the workers {how}")
        elif self._table.rollout.mold_died():
            self._on_fatal(BootError(f"the process that forks the workers {how}, again and again"))
        else:
            self._remake_later(f"the mold {how}", now, loaded_at=mold.loaded_at)

    def _failed(self, generation: int, error: ObworkerError, now: float) -> None:
        """Account for a generation that cannot be loaded."""
        if not self._table.rollout.is_proved:
            self._on_fatal(error)
        elif self.reloading is not None and self.reloading.generation == generation:
            self.fail_reload(_in_one_line(error))
        else:
            self._remake_later(str(error), now, loaded_at=None)

    def fail_reload(self, reason: str) -> None:
        """Make the reload fail; the current generation continues to serve."""
        current = self._table.rollout.current
        self._table.rollout.drop_candidate()
        self.molds.dismiss(spare=current)
        if self.molds.get(current) is None:  # else the code would be loaded again without a pause
            now = time.monotonic()
            self._remake_due = now + self._remakes.ended(now, ready_at=None)
        logger.error("reload failed: %s; generation %d serves on", reason, current)
        self._end_reload(reason)

    def _end_reload(self, failure: str) -> None:
        reload, self.reloading = self.reloading, None
        if reload is not None:
            self._on_reloaded(failure)
            reload.answer(failure)

    # what is due

    def tend(self, now: float) -> None:
        """Do what is due: kill a late import, load again, end a reload that is complete."""
        for mold in self.molds.tend(now):
            self.mold_gone(mold, exits.UNKILLABLE, now)
        if self._needs_mold and now >= self._remake_due:
            self._load(self._plans[self._table.rollout.current], now)
        if self.reloading is not None and self._is_rolled_out(self.reloading.generation):
            seconds = now - self.reloading.requested_at
            logger.info("reloaded   generation %d in %.1f s", self.reloading.generation, seconds)
            self._end_reload("")

    def _is_rolled_out(self, generation: int) -> bool:
        rollout = self._table.rollout
        return rollout.current == generation and rollout.is_complete

    @property
    def next_deadline(self) -> float | None:
        """The time at which `tend` has something to do."""
        remake_due = self._remake_due if self._needs_mold else None
        return earliest(self.molds.next_deadline, remake_due)

    @property
    def _needs_mold(self) -> bool:
        """Whether the current generation has lost its mold, and no other is being loaded."""
        current = self._table.rollout.current
        is_loading = self.reloading is not None and self.reloading.generation != current
        idle = not is_loading and self.molds.is_gone
        return idle and not self._stopping and not self.is_direct(current)

    def _remake_later(self, what: str, now: float, loaded_at: float | None) -> None:
        wait = self._remakes.ended(now, ready_at=loaded_at)
        self._remake_due = now + wait
        serving = f"{self._table.ready} of {self._table.wanted} workers serve on"
        logger.error("%s; %s, a new mold starts in %.1f s", what, serving, wait)


def _in_one_line(error: ObworkerError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)
