"""Starts servers for the contract's models when they are needed, for one model at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from contract.rows import Case, Model
from harness import SERVING, Reply, Server, command, request

LISTENING = r"Listening at: http://127\.0\.0\.1:(\d+)"
FACTORY = "obworker.predictor.application:create"


class Fleet:
    """The real servers for one model; a request to another model ends them first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._model: Model | None = None
        self._path = directory
        self._servers: dict[str, tuple[Server, int]] = {}

    def obworker(self, case: Case) -> Reply:
        """Send a case's request to obworker, and return the response."""
        return self._ask("obworker", case)

    def gunicorn(self, case: Case) -> Reply:
        """Send a case's request to the same application under gunicorn; return the response."""
        return self._ask("gunicorn", case)

    def write(self, model: Model) -> Path:
        """Return the directory of a model, written at the first call; its servers share it."""
        if model != self._model:
            self.close()
            self._model, self._path = model, self._directory / model.name
            if not self._path.exists():
                model.write(self._directory)
        return self._path

    def server(self, kind: str, model: Model) -> tuple[Server, int]:
        """Return the model's server of this kind and its port; start it if it does not run."""
        path = self.write(model)
        if kind not in self._servers:
            self._servers[kind] = STARTERS[kind](model, path, self._directory)
        return self._servers[kind]

    def log(self) -> str:
        """Return the end of every server's log, to be read by people."""
        return "\n".join(
            f"--- {kind}\n{server.log()[-4000:]}" for kind, (server, _) in self._servers.items()
        )

    def close(self) -> None:
        """End all servers."""
        for server, _ in self._servers.values():
            server.destroy()
        self._servers.clear()

    def _ask(self, kind: str, case: Case) -> Reply:
        _, port = self.server(kind, case.model)
        return request(port, case.method, case.path, case.content, case.headers)


def _start_obworker(model: Model, path: Path, directory: Path) -> tuple[Server, int]:
    argv = ("--host", "127.0.0.1", "--port", "0", *model.argv, str(path))
    return _start(model, command(*argv), directory / f"{model.name}.obworker.log", SERVING.pattern)


def _start_gunicorn(model: Model, path: Path, directory: Path) -> tuple[Server, int]:
    application = f"{FACTORY}({str(path)!r}, {model.class_name!r}, {model.model_path!r})"
    options = ["--bind", "127.0.0.1:0", "--workers", "1", "--no-control-socket"]
    program = [sys.executable, "-m", "gunicorn", *options, application]
    return _start(model, program, directory / f"{model.name}.gunicorn.log", LISTENING)


def _start(model: Model, program: list[str], log: Path, pattern: str) -> tuple[Server, int]:
    # The contract must hold without this variable, too.
    environ = {"PYTHONDONTWRITEBYTECODE": None, **model.environ}
    server = Server(program, log, cwd=log.parent, environ=environ)
    try:
        return server, int(server.wait_for_log(pattern)[1])
    except BaseException:
        server.destroy()
        raise


STARTERS: dict[str, Callable[[Model, Path, Path], tuple[Server, int]]] = {
    "obworker": _start_obworker,
    "gunicorn": _start_gunicorn,
}
