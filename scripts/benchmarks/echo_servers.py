"""The servers that the benchmark `echo` compares; each has one worker and the same JSON echo."""

from __future__ import annotations

from benchmarks.servers import Server, obworker

BODY = {"x": [1, 2, 3], "name": "obworker"}

PREDICTOR = """\
class Predictor:
    def predict(self, json):
        return json
"""

FLASK = """\
from flask import Flask, jsonify, request

app = Flask(__name__)


@app.post("/")
def echo():
    return jsonify(request.get_json())
"""

FASTAPI = """\
from typing import Any

from fastapi import Body, FastAPI

app = FastAPI()


@app.post("/")
async def echo(body: Any = Body()):
    return body
"""

WSGI = """\
import orjson


def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    answer = orjson.dumps(orjson.loads(body))
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))]
    start_response("200 OK", headers)
    return [answer]
"""

# The same handler as with WSGI: the server in C alone, without a framework.
BJOERN = (
    WSGI
    + """

if __name__ == "__main__":
    import sys

    import bjoern

    bjoern.run(app, "127.0.0.1", int(sys.argv[1]))
"""
)

# uvicorn always writes an access log; its level is below WARNING.
SERVING = """\
import logging

import openbayes_serving as serv

logging.disable(logging.INFO)


class Predictor:
    def predict(self, json):
        return json


if __name__ == "__main__":
    serv.run(Predictor)
"""

_GUNICORN = ("gunicorn", "--workers", "1", "--bind", "127.0.0.1:{port}", "--log-level", "warning")

SERVERS = (
    obworker(PREDICTOR, "--workers", "1"),
    Server(
        "bjoern bare",
        "bjoern",
        ("python", "bare.py", "{port}"),
        {"bare.py": BJOERN},
    ),
    Server(
        "granian wsgi",
        "granian",
        (
            *("granian", "--interface", "wsgi", "--workers", "1", "--blocking-threads", "1"),
            *("--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning", "bare:app"),
        ),
        {"bare.py": WSGI},
    ),
    Server(
        "uvicorn+fastapi",
        "uvicorn",
        (
            *("uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log"),
            *("--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning", "api:app"),
        ),
        {"api.py": FASTAPI},
    ),
    Server(
        "gunicorn+flask gthread",
        "gunicorn",
        (*_GUNICORN, "-k", "gthread", "--threads", "1", "--keep-alive", "75", "web:app"),
        {"web.py": FLASK},
    ),
    Server(
        "gunicorn+flask sync",
        "gunicorn",
        (*_GUNICORN, "-k", "sync", "web:app"),
        {"web.py": FLASK},
    ),
    Server(
        "openbayes-serving",
        "openbayes-serving",
        ("python", "predictor.py", "--host", "127.0.0.1", "--port", "{port}"),
        {"predictor.py": SERVING},
        venv="serving",
    ),
)
