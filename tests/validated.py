"""A program that answers a model's cases in this process; wsgiref.validate checks every call.

It reads the pickled model, its directory and the cases from its standard input, and writes the
pickled replies to its standard output.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from contract.rows import Case, Model
from harness import Reply

from obworker.predictor import application


def environ_of(case: Case) -> dict[str, Any]:
    """Return the WSGI environ of a case's request."""
    path, _, query = case.path.partition("?")
    headers = {name.upper().replace("-", "_"): value for name, value in case.headers.items()}
    content = case.content or b""
    if headers.pop("TRANSFER_ENCODING", None):  # the server undoes the coding
        content = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", content))
    environ: dict[str, Any] = {
        "REQUEST_METHOD": case.method,
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": query,
        "CONTENT_TYPE": headers.pop("CONTENT_TYPE", ""),
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.input": io.BytesIO(content),
        **{f"HTTP_{name}": value for name, value in headers.items()},
    }
    setup_testing_defaults(environ)
    return environ


def answer(app: Any, case: Case) -> Reply:
    """Call the application as a server does, and return the response."""
    started: list[Any] = []
    written: list[bytes] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: object = None
    ) -> Callable[[bytes], object]:
        started[:] = [status, headers]
        return written.append

    body = app(environ_of(case), start_response)
    try:
        written += body
    finally:
        body.close()
    status, headers = started
    fields = {name.lower(): value for name, value in headers}
    return Reply(int(status[:3]), fields, b"".join(written))


def main() -> None:
    """Answer the cases on standard input."""
    model: Model
    model, directory, cases = pickle.load(sys.stdin.buffer)
    os.environ.update(model.environ)
    output, sys.stdout = sys.stdout, sys.stderr
    app = validator(application.create(str(directory), model.class_name, model.model_path))
    replies = [answer(app, case) for case in cases]
    output.buffer.write(pickle.dumps(replies))


if __name__ == "__main__":
    main()
