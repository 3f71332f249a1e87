"""A server of one's own, by nothing but the standard library: it counts the words posted to it."""

import json
import os
import signal
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    daemon_threads = False  # closing the server waits for the requests in progress


class Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds a client may be silent

    def do_GET(self):
        self.answer(HTTPStatus.OK, {"ready": True})

    def do_POST(self):
        try:
            length = int(self.headers["Content-Length"])
        except (TypeError, ValueError):
            self.answer(HTTPStatus.LENGTH_REQUIRED, {"error": "Content-Length is missing"})
            return
        self.answer(HTTPStatus.OK, {"words": len(self.rfile.read(length).split())})

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Server(("", int(os.environ.get("PORT", "80"))), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
