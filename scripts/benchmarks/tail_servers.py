"""The servers that tail compares, each with four workers that compute one request at a time."""

from __future__ import annotations

from benchmarks import work
from benchmarks.servers import Server, obworker

WORKERS = 4

WSGI = """\
import time

import orjson


def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    time.sleep(orjson.loads(body)["seconds"])
    headers = [("Content-Type", "application/json"), ("Content-Length", "11")]
    start_response("200 OK", headers)
    return [b'{"ok":true}']
"""

LITSERVE = """\
import sys
import time

import litserve


class Sleeper(litserve.LitAPI):
    def setup(self, device):
        pass

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

SERVERS = (
    obworker(work.PREDICTOR, "--workers", str(WORKERS)),
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
