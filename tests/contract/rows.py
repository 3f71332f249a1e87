"""The kinds of rows: a model, a request to it with its answer, and a model that is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
from harness import Reply

JSON = "application/json"
MSGPACK = "application/msgpack"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"
LINES = "application/x-ndjson"
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Model:
    """A model directory, and the options and environment that its server is started with."""

    name: str
    files: Mapping[str, str | bytes]
    class_name: str | None = None
    model_path: str | None = None
    options: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = False

    def write(self, directory: Path) -> Path:
        """Write the files into a new directory in `directory`."""
        root = directory / self.name
        root.mkdir()
        for name, content in self.files.items():
            file = root / name
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        if self.read_only:
            for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
                folder.chmod(0o555)
        return root

    @property
    def argv(self) -> list[str]:
        """Return the arguments that come before the directory on the command line."""
        given = {"--class": self.class_name, "--model-path": self.model_path}
        chosen = [part for flag, value in given.items() if value for part in (flag, value)]
        return [*self.options, *chosen]


@dataclass(frozen=True)
class Case:
    """A request to a model, and the answer that the contract promises.

    `body` is the exact body of the answer, or a pattern that matches all of it. `server_level` is
    set where only our own HTTP server answers like that, and says why.
    """

    id: str
    model: Model
    status: int = 200
    content_type: str | None = None
    body: bytes | re.Pattern[bytes] = b""
    answer: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    server_level: str = ""

    def differences(self, reply: Reply) -> list[str]:
        """Return how `reply` differs from the expected answer."""
        found = []
        if reply.status != self.status:
            found.append(f"status {reply.status}, not {self.status}")
        expected = dict(self.answer)
        if self.content_type is not None:
            expected["Content-Type"] = self.content_type
        for name, value in expected.items():
            if reply.headers.get(name.lower()) != value:
                found.append(f"{name}: {reply.headers.get(name.lower())}, not {value}")
        matches = (
            self.body == reply.body
            if isinstance(self.body, bytes)
            else self.body.fullmatch(reply.body) is not None
        )
        if not matches:
            found.append(f"body {reply.body!r}, not {self.body!r}")
        return found


@dataclass(frozen=True)
class Refusal:
    """A model that cannot be served: the exit code, and the words of the message in their order."""

    model: Model
    exit_code: int
    named: tuple[str, ...]


def to_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def error(message: str) -> bytes:
    return to_json({"error": message})


def to_msgpack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def single(name: str, source: str, **more: str | None) -> Model:
    """Return a model that has no other file than a predictor.py."""
    return Model(name, {"predictor.py": source}, **more)  # type: ignore[arg-type]


OFFERED = (
    "application/json, application/msgpack, application/x-msgpack, application/vnd.msgpack,"
    " application/vnd.messagepack"
)
