"""The servers that the benchmark `tail` compares; each has four workers with one thread.

Each worker notes when it has loaded. On most of these servers a kept connection stays with its
worker, so the load may connect only after all workers have loaded.
"""

from __future__ import annotations

from benchmarks.servers import Server, obworker

WORKERS = 4
LOADED = "loaded"
"""The file to which each worker appends a byte when it has loaded."""

SAY = f"""\
import time


def say_loaded():
    with open("{LOADED}", "a") as loaded:
        loaded.write(".")

"""

PREDICTOR = (
    SAY
    + """
class Predictor:
    def __init__(self):
        say_loaded()

    def predict(self, json):
        time.sleep(json["seconds"])
        return {"ok": True}
"""
)

WSGI = (
    SAY
    + """
import orjson

say_loaded()


def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    time.sleep(orjson.loads(body)["seconds"])
    headers = [("Content-Type", "application/json"), ("Content-Length", "11")]
    start_response("200 OK", headers)
    return [b'{"ok":true}']
"""
)

LITSERVE = (
    SAY
    + """
import sys

import litserve


class Sleeper(litserve.LitAPI):
    def setup(self, device):
        say_loaded()

    def decode_request(self, request):
        return request["seconds"]

    def predict(self, seconds):
        time.sleep(seconds)
        return True

    def encode_response(self, output):
        return {"ok": output}


if __name__ == "__main__":
    server = litserve.LitServer(
        Sleeper(), accelerator="cpu", workers_per_device=WORKERS, track_requests=False
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
""".replace("WORKERS", str(WORKERS))
)

SERVERS = (
    obworker(PREDICTOR, "--workers", str(WORKERS)),
    Server(
        "granian",
        "granian",
        (
            *("granian", "--interface", "wsgi", "--workers", str(WORKERS)),
            *("--blocking-threads", "1", "--host", "127.0.0.1", "--port", "{port}"),
            *("--log-level", "warning", "bare:app"),
        ),
        {"bare.py": WSGI},
    ),
    Server(
        "litserve",
        "litserve",
        ("python", "sleeper.py", "{port}"),
        {"sleeper.py": LITSERVE},
        path="/predict",
    ),
    Server(
        "gunicorn gthread",
        "gunicorn",
        (
            *("gunicorn", "-k", "gthread", "--workers", str(WORKERS), "--threads", "1"),
            *("--keep-alive", "75", "--bind", "127.0.0.1:{port}", "--log-level", "warning"),
            "bare:app",
        ),
        {"bare.py": WSGI},
    ),
)
