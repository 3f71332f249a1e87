"""What a predictor is built from and all workers can have in common: the session, the preloaded.

Theory of operation. Memory that was filled before a fork is shared after it, until somebody writes
to it (fork(2), copy-on-write), and weights are only read. So what can be forked is made in the
process that forks, by `preload`; what cannot, and all of it where nothing is forked, is made by
`complete` in the process that uses it.

What is shared is referred to from here for as long as the process runs, whatever the predictor does
with it: the destructor of a session is not for a process that did not make it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from obworker.predictor.building import building
from obworker.predictor.injection import PRELOADED
from obworker.predictor.onnx import SessionPlan, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ONNX = "onnx"


@dataclass(frozen=True)
class Assets:
    """The assets of `predictor`, which `file` defines, by the name that __init__ has for them.

    `shared` are those that were made before the fork, once that was done.
    """

    file: Path
    predictor: type
    session: SessionPlan | None
    has_preload: bool
    shared: Mapping[str, object] | None = None

    @property
    def description(self) -> list[tuple[str, str]]:
        """What they are, and whose, as labelled lines for people."""
        lines = []
        if self.session is not None:
            model = os.path.relpath(self.session.model, self.file.parent)
            lines.append((ONNX, f"{model}: {self.session.description}{self._whose(ONNX)}"))
        if self.has_preload:
            lines.append(("preload", f"{self._title}(){self._whose(PRELOADED)}"))
        return lines

    def preload(self) -> Assets:
        """Make those that can be forked.

        Raises:
            BootError: one cannot be made.
        """
        return replace(
            self, shared={name: make() for name, make in self._makers() if self._can_fork(name)}
        )

    def complete(self) -> dict[str, object]:
        """Return all of them, and make those that are not shared.

        Raises:
            BootError: one cannot be made.
        """
        shared = self.shared or {}
        return {name: shared[name] if name in shared else make() for name, make in self._makers()}

    @property
    def _title(self) -> str:
        return f"{self.predictor.__name__}.preload"

    def _makers(self) -> list[tuple[str, Callable[[], object]]]:
        makers: list[tuple[str, Callable[[], object]]] = []
        if self.session is not None:
            makers.append((ONNX, partial(open_session, self.session)))
        if self.has_preload:
            makers.append((PRELOADED, self._call_preload))
        return makers

    def _can_fork(self, name: str) -> bool:
        return name != ONNX or (self.session is not None and self.session.may_be_forked)

    def _call_preload(self) -> object:
        with building(self._title, self.file):
            return self.predictor.preload()  # type: ignore[attr-defined]  # has_preload has seen it

    def _whose(self, name: str) -> str:
        if self.shared is None:
            return ""
        return ", shared by all workers" if name in self.shared else ", one for each worker"
