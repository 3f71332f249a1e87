"""What a request is answered when it fails, in production and outside of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from contract.returned import ACCEPTS, RETURNS, accepting
from contract.routes import route_cases
from contract.rows import JSON, OFFERED, Case, Model, error, to_json

IN_PRODUCTION = {"OPENBAYES_SERVING_PRODUCTION": "1"}
PRODUCTION = Model("production", RETURNS.files, options=RETURNS.options, environ=IN_PRODUCTION)
ID = {"X-Request-ID": "r-1"}
INTERNAL = error("Internal Server Error")
# the case of the predictor, and the type that is named as the one that cannot be sent
UNSENDABLE = {
    "set": "set",
    "object": "Thing",
    "set-inside": "set",
    "class": "type",
    "complex": "complex",
}
# the case of the predictor, and the last line of its traceback
UNHANDLED = {
    "raise": "ValueError: secret 猫",
    "raise-generator": "KeyError: 'secret'",
}
# status, headers, body
ABORTED: dict[str, tuple[int, dict[str, str], bytes]] = {
    "abort-418": (418, {}, error("This server is a teapot, not a coffee machine")),
    "abort-413": (413, {}, error("The data value transmitted exceeds the capacity limit.")),
    "abort-403": (403, {}, error("no entry")),
    "abort-405": (
        405,
        {"Allow": "PUT"},
        error("The method is not allowed for the requested URL."),
    ),
    "abort-503": (503, {"Retry-After": "3"}, error("busy")),
    "abort-generator": (409, {}, error("twice")),
}


def failure_cases() -> Iterator[Case]:
    for model in (RETURNS, PRODUCTION):
        yield from unsendable_cases(model)
        yield from unhandled_cases(model)
        yield from aborted_cases(model)
        yield from request_error_cases(model)
        yield from route_cases(model)


def unsendable_cases(model: Model) -> Iterator[Case]:
    for name, kind in UNSENDABLE.items():
        for id_ in ("absent", "msgpack"):
            yield Case(
                f"{model.name}-{name}-accept-{id_}",
                model,
                500,
                JSON,
                INTERNAL if model is PRODUCTION else cannot_be_sent(kind),
                ID,
                path=f"/?case={name}",
                headers=accepting(ACCEPTS[id_][0]) | ID,
            )


def cannot_be_sent(kind: str) -> re.Pattern[bytes]:
    return re.compile(
        rb'\{"error":"Internal Server Error","traceback":"predict returned what'
        rb" cannot be sent: a [\w.]*" + kind.encode() + rb' cannot be sent; allowed are [\w, ]+"\}'
    )


def unhandled_cases(model: Model) -> Iterator[Case]:
    for name, last_line in UNHANDLED.items():
        yield Case(
            f"{model.name}-{name}",
            model,
            500,
            JSON,
            INTERNAL if model is PRODUCTION else with_traceback(last_line),
            ID,
            path=f"/?case={name}",
            headers=ID,
        )


def with_traceback(last_line: str) -> re.Pattern[bytes]:
    """Return the answer to an exception outside production; no line of the traceback is ours."""
    quoted = re.escape(to_json(last_line)[1:-1])
    start = rb'\{"error":"Internal Server Error","traceback":"Traceback \(most recent call last\):'
    return re.compile(
        start + rb"((?!obworker/).)*predictor\.py((?!obworker/).)*" + quoted + rb'\\n"\}'
    )


def aborted_cases(model: Model) -> Iterator[Case]:
    for name, (status, answer, body) in ABORTED.items():
        yield Case(f"{model.name}-{name}", model, status, JSON, body, answer, path=f"/?case={name}")
    yield Case(
        f"{model.name}-abort-werkzeug",
        model,
        404,
        JSON,
        re.compile(rb'\{"error":"The requested URL was not found .*"\}'),
        path="/?case=abort-werkzeug",
    )
    yield Case(
        f"{model.name}-abort-response",
        model,
        418,
        "text/html; charset=utf-8",
        b"mine",
        {"X-Own": "abort"},
        path="/?case=abort-response",
    )


def request_error_cases(model: Model) -> Iterator[Case]:
    yield Case(
        f"{model.name}-form-key",
        model,
        400,
        JSON,
        re.compile(rb'\{"error":".+"\}'),
        path="/?case=form-key",
    )
    yield Case(
        f"{model.name}-not-acceptable",
        model,
        406,
        JSON,
        error(f"none of text/html can be had; there is {OFFERED}"),
        path="/?case=dict",
        headers={"Accept": "text/html"},
    )
