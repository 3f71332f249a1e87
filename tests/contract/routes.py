"""What other methods and paths than POST to / are answered, and a body that is too large."""

from __future__ import annotations

from collections.abc import Iterator

from contract.rows import JSON, Case, Model, error, to_json

UP = to_json({"message": "The predictor is up; POST to / for a prediction"})
NOT_FOUND = error("Not Found: POST to / for a prediction")


def route_cases(model: Model) -> Iterator[Case]:
    allow = {"Allow": "GET, HEAD, POST"}
    length = {"Content-Length": str(len(UP))}
    yield Case(f"{model.name}-get", model, 200, JSON, UP, length, "GET")
    yield Case(f"{model.name}-get-query", model, 200, JSON, UP, length, "GET", "/?case=raise")
    yield Case(f"{model.name}-head", model, 200, JSON, b"", length, "HEAD")
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        body = error(f"Method Not Allowed: {method}")
        yield Case(f"{model.name}-{method.lower()}", model, 405, JSON, body, allow, method)
    for method in ("POST", "GET", "PUT"):
        name = f"{model.name}-{method.lower()}-elsewhere"
        yield Case(name, model, 404, JSON, NOT_FOUND, {}, method, "/predict?case=dict")
    yield Case(f"{model.name}-head-elsewhere", model, 404, JSON, b"", {}, "HEAD", "/x")
    yield Case(
        f"{model.name}-too-large",
        model,
        413,
        JSON,
        # the server's own errors have a blank after the colon
        b'{"error":"the body exceeds 65536 bytes"}',
        path="/?case=dict",
        content=b"x" * (64 * 1024 + 1),
        server_level="the limit on the size of a body is the server's: gunicorn has none",
    )
