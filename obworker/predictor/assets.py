"""What workers can share of a predictor: the onnx session, and what preload() returns.

Theory of operation. Memory that was filled before a fork stays shared until somebody writes to it
(fork(2), copy-on-write), and weights are only read. So `preload` makes what can be forked in the
process that forks the workers. `complete` makes the rest in the worker, or everything if workers
are not forked.

Shared assets are referred to from here for as long as the process runs, whatever the predictor does
with them: a session must only be destroyed by the process that made it.
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
    """The assets of `predictor`, which `file` defines.

    `shared` are those that were made before the fork, by the names of the arguments of __init__; it
    is None before `preload`.
    """

    file: Path
    predictor: type
    session: SessionPlan | None
    has_preload: bool
    shared: Mapping[str, object] | None = None

    @property
    def description(self) -> list[tuple[str, str]]:
        """Labelled lines for people: what the assets are, and whether they are shared."""
        lines = []
        if self.session is not None:
            model = os.path.relpath(self.session.model, self.file.parent)
            lines.append((ONNX, f"{model}: {self.session.description}{self._whose(ONNX)}"))
        if self.has_preload:
            lines.append(("preload", f"{self._title}(){self._whose(PRELOADED)}"))
        return lines

    def preload(self) -> Assets:
        """Return this with the assets that can be forked.

        Raises:
            BootError: one cannot be made.
        """
        return replace(
            self, shared={name: make() for name, make in self._makers() if self._can_fork(name)}
        )

    def complete(self) -> dict[str, object]:
        """Return all assets by name, making those that are not shared.

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
