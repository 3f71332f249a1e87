"""Fixtures for tests of predictors: they write model directories and make WSGI calls."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

import obworker
from obworker.predictor import application, events


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Calls a WSGI application, and checks every call against PEP 3333."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._checked = validator(app)

    def post(self, body: bytes = b"", content_type: str = "", **environ: Any) -> Response:
        return self.request("POST", "/", body, content_type, **environ)

    def post_json(self, value: object, **environ: Any) -> Response:
        return self.post(json.dumps(value).encode(), "application/json", **environ)

    def request(
        self,
        method: str,
        path: str = "/",
        body: bytes = b"",
        content_type: str = "",
        **environ: Any,
    ) -> Response:
        full: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": content_type,
            "wsgi.input": io.BytesIO(body),
        }
        full |= environ
        setup_testing_defaults(full)
        started: list[Any] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: object = None
        ) -> Callable[[bytes], object]:
            assert exc_info or not started, "started twice"
            started[:] = [status, headers]
            return lambda data: None

        chunks = _collect(self._checked(full, start_response))
        status, headers = started
        return Response(int(status[:3]), dict(headers), b"".join(chunks), chunks)


def _collect(body: Iterable[bytes]) -> list[bytes]:
    try:
        return list(body)
    finally:
        body.close()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    directory, path, modules = Path.cwd(), list(sys.path), dict(sys.modules)
    writes, recorder = sys.dont_write_bytecode, events.install(events.Recorder())
    yield
    os.chdir(directory)
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        if not hasattr(sys.modules[name], "__path__") and _is_model(sys.modules[name]):
            del sys.modules[name]
    sys.modules.pop("openbayes_serving", None)
    sys.modules.update({k: v for k, v in modules.items() if k == "openbayes_serving"})
    sys.dont_write_bytecode = writes
    events.install(recorder)


def _is_model(module: object) -> bool:
    return "pytest-" in str(getattr(module, "__file__", ""))


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Write a model directory: predictor.py, and other files by name."""

    def write(source: str | None = None, **files: str) -> Path:
        directory = tmp_path / "model"
        directory.mkdir(exist_ok=True)
        if source is not None:
            (directory / "predictor.py").write_text(textwrap.dedent(source))
        for name, text in files.items():
            (directory / name.replace("__", ".")).write_text(textwrap.dedent(text))
        return directory

    return write


@pytest.fixture
def serve(model: Callable[..., Path]) -> Callable[..., Client]:
    """Boot a predictor.py, and return a client of it."""

    def boot(source: str, environment: str = "local") -> Client:
        blueprint = application.load(str(model(source)), environment=environment)
        return Client(blueprint.boot(1, lambda _: None))

    return boot


@pytest.fixture
def client_of() -> Callable[[Any], Client]:
    """Return a function that makes a client of an application."""
    return Client


class AddRequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = obworker.request_id()
        return True


@pytest.fixture
def messages_of(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], list[str]]]:
    """Return a function that returns the messages that were logged for a request."""
    adding = AddRequestId()
    caplog.handler.addFilter(adding)
    caplog.set_level(logging.INFO)
    yield lambda id_: [r.getMessage() for r in caplog.records if r.__dict__["request_id"] == id_]
    caplog.handler.removeFilter(adding)
