"""Servers of the contract's models: one model at a time, each server started when asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from contract.rows import Case, Model
from harness import SERVING, Reply, Server, command, request

LISTENING = r"Listening at: http://127\.0\.0\.1:(\d+)"
FACTORY = "obworker.predictor.application:create"


class Fleet:
    """Real servers for the model that is asked about; those of the model before are ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._model: Model | None = None
        self._path = directory
        self._servers: dict[str, tuple[Server, int]] = {}

    def obworker(self, case: Case) -> Reply:
        """Return what obworker answers."""
        return self._ask("obworker", case)

    def gunicorn(self, case: Case) -> Reply:
        """Return what the same application answers under gunicorn."""
        return self._ask("gunicorn", case)

    def write(self, model: Model) -> Path:
        """Return the directory of a model; two servers of a model share it."""
        if model != self._model:
            self.close()
            self._model, self._path = model, self._directory / model.name
            if not self._path.exists():
                model.write(self._directory)
        return self._path

    def server(self, kind: str, model: Model) -> tuple[Server, int]:
        """Return the server of that kind, and its port, started if there is none."""
        path = self.write(model)
        if kind not in self._servers:
            self._servers[kind] = STARTERS[kind](model, path, self._directory)
        return self._servers[kind]

    def log(self) -> str:
        """Return the end of every log, for people."""
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
    environ = {"PYTHONDONTWRITEBYTECODE": None, **model.environ}  # what holds must not be its doing
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
