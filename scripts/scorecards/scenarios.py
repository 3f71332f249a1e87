"""A scenario: something that is done to a real server, and a check that the server stands it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scorecards.models import Model
from scorecards.servers import Options, Server


class Measured(NamedTuple):
    """Whether a server did what is required, and what was measured."""

    ok: bool
    text: str


@dataclass
class Serve:
    """Starts servers of one kind; each has its own directory in `directory`."""

    kind: type[Server]
    directory: Path
    servers: list[Server] = field(default_factory=list)

    def __call__(
        self,
        model: Model,
        *,
        ready: bool = True,
        wrapper: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Server:
        """Start a server for the model, and wait until it answers, unless `ready` is false."""
        directory = self._new_directory()
        self.kind.deploy(model, self.kind.model_directory(directory))
        server = self._start(directory, Options(**options), wrapper, environ)
        if ready:
            server.wait_until_ready()
        return server

    def script(self, text: str) -> Server:
        """Start a server for a start.sh."""
        directory = self._new_directory()
        self.kind.deploy_script(text, self.kind.model_directory(directory))
        return self._start(directory, Options(), (), None)

    def close(self) -> None:
        """End all servers with all their processes."""
        for server in self.servers:
            server.family.kill()

    def log(self) -> str:
        """Return what all servers have written."""
        return "".join(server.log() for server in self.servers)

    def _new_directory(self) -> Path:
        directory = self.directory / str(len(self.servers))
        self.kind.model_directory(directory).mkdir(parents=True)
        return directory

    def _start(
        self,
        directory: Path,
        options: Options,
        wrapper: Sequence[str],
        environ: Mapping[str, str] | None,
    ) -> Server:
        server = self.kind(directory, options, wrapper, environ)
        self.servers.append(server)
        return server


class Scenario(NamedTuple):
    """A row of the scorecard."""

    name: str
    title: str
    required: str
    measure: Callable[[Serve], Measured]
