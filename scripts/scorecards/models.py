"""The model that all servers serve: as a predictor.py, or through an adapter as a WSGI application.

The model writes what happens to it into the file `notes` in its directory: the monotonic time,
which all processes of a machine share, what happened, and the process's id. So a scenario need not
rely on a server's log, and looks at all servers in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

NOTES = "notes"

SOURCE = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path

NOTES = Path(__file__).with_name("notes")

def note(what):
    with NOTES.open("a") as notes:
        notes.write(f"{{time.monotonic()}} {{what}} {{os.getpid()}}\\n")

def spin(_):
    while True:
        pass

def stop(_):
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)  # the signal may take a moment, in which predict could be over

DO = {{
    # what steady load asks for: long enough that one of its requests is always in progress
    "": lambda _: time.sleep(0.01),
    "sleep": time.sleep,
    "spin": spin,
    "stop": stop,
    # C loops that keep the interpreter's lock; a signal does not end the second
    "hold": lambda seconds: ctypes.PyDLL(None).usleep(int(seconds * 1e6)),
    "hold_for_ever": lambda _: sum(iter(int, 1)),
    "orphan": lambda _: subprocess.run(["sh", "-c", "(sleep 0.2; exit 3) &"], check=True),
}}

note("import")
{at_import}

class Predictor:
    def __init__(self):
        note("init")
{at_init}
        note("ready")

    def predict(self, params):
        name, _, seconds = params.get("do", "").partition(":")
        if name:
            note("predict")
        DO[name](float(seconds or 0))
        return {{"version": {version!r}, "pid": os.getpid()}}
"""

WSGI_ADAPTER = """
import json, urllib.parse

predictor = Predictor()

def application(environ, start_response):
    params = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    body = json.dumps(predictor.predict(params)).encode()
    fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", fields)
    return [body]
"""


class Note(NamedTuple):
    """Something that happened to the model."""

    at: float
    what: str
    pid: int


@dataclass(frozen=True)
class Model:
    """A version of the model, with statements to run during its import and in its `__init__`."""

    version: str = "old"
    at_import: str = ""
    at_init: str = ""

    def source(self) -> str:
        """Return the text of its predictor.py."""
        return SOURCE.format(
            version=self.version, at_import=self.at_import, at_init=indent(self.at_init, " " * 8)
        )


@dataclass(frozen=True)
class Damage:
    """A statement that kills a model, and a pattern for what an operator is told about it."""

    statement: str
    cause: str

    def at_import(self) -> Model:
        """Return a model that dies during its import."""
        return Model("new", at_import=self.statement)

    def at_init(self) -> Model:
        """Return a model that dies in its `__init__`."""
        return Model("new", at_init=self.statement)


SYNTAX_ERROR = Damage("this is no Python", "SyntaxError|invalid syntax")
EXCEPTION = Damage('raise RuntimeError("no luck")', "no luck")
EXIT = Damage("sys.exit(0)", r"SystemExit|sys\.exit|(code|status) 0")
KILLED = Damage("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL")
SEGFAULT = Damage("ctypes.string_at(0)", "SIGSEGV|[Ss]egmentation fault")


def write(directory: Path, name: str, text: str) -> None:
    """Write a file so that nobody sees half of it, as a deployment does."""
    unfinished = directory / f".{name}"
    unfinished.write_text(text)
    unfinished.replace(directory / name)


def notes(directory: Path) -> list[Note]:
    """Return all notes so far, the oldest first."""
    path = directory / NOTES
    lines = path.read_text().splitlines() if path.exists() else []
    parts = [line.split() for line in lines]
    return [Note(float(at), what, int(pid)) for at, what, pid in parts]
