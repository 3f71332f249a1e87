"""Says what a client asks to hear: the query parameter `case` names the way."""

import hashlib
import time
from pathlib import Path

PATIENCE = 20


class Predictor:
    def predict(self, request, payload):
        case = request.args.get("case", "parsed")
        return getattr(self, case)(request, payload)

    def parsed(self, request, payload):
        return payload

    def raw(self, request, payload):
        return request.data

    def digest(self, request, payload):
        return {"size": len(request.data), "sha256": hashlib.sha256(request.data).hexdigest()}

    def large(self, request, payload):
        return bytes(range(256)) * (int(request.args["size"]) // 256)

    def connection(self, request, payload):
        """Return what tells one connection from another, whichever worker serves it."""
        time.sleep(float(request.args.get("sleep", 0)))
        return request.environ["REMOTE_PORT"]

    def stream(self, request, payload):
        """Begin, and end when the client has shown that it read the beginning."""
        yield "first\n"
        wait_for(Path(request.args["go"]))
        yield "second\n"

    def hold(self, request, payload):
        """Leave a mark at each call, and answer when told to."""
        with Path(request.args["begun"]).open("a") as calls:
            calls.write("called\n")
        wait_for(Path(request.args["go"]))
        return "held"


def wait_for(path):
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {path}")
        time.sleep(0.01)
