"""What becomes of a predictor whose GPU fails or whose memory is short."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from obworker.errors import BootError, BrokenOff, DeviceError, ObworkerError, RunError, Unhealthy
from obworker.predictor import application
from obworker.predictor.dispatch import Application

ASSERT = "CUDA error: device-side assert triggered"
SOURCE = """
    import asyncio, os
    from werkzeug import Response
    from werkzeug.exceptions import NotFound

    class OutOfMemoryError(RuntimeError):
        pass

    lost = RuntimeError("CUDA error: device-side assert triggered")

    def failing():
        yield b"x"
        raise lost

    def wrapped():
        try:
            raise lost
        except RuntimeError as error:
            raise NotFound() from error

    class Predictor:
        def __init__(self):
            {init}
        {way} predict(self):
            {predict}
        def health(self):
            {health}
        def run(self):
            {run}
"""

Model = Callable[..., Path]
ClientOf = Callable[[Any], Any]


class Told:
    """Hears what the predictor says of itself."""

    def __init__(self) -> None:
        self.fatal: list[ObworkerError] = []
        self.no_memory: list[None] = []

    def count(self) -> None:
        self.no_memory.append(None)

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.fatal), len(self.no_memory)


def boot(
    model: Model, told: Told, environment: str = "production", way: str = "def", **bodies: str
) -> Application:
    parts = {"init": "pass", "predict": "pass", "health": "pass", "run": "pass", **bodies}
    path = str(model(SOURCE.format(way=way, **parts)))
    return application.load(path, environment=environment).boot(1, told.fatal.append, told.count)


@pytest.mark.parametrize(
    ("body", "status", "message", "counts"),
    [
        ("raise lost", 503, "the GPU has failed; try again", (1, 0)),
        ("wrapped()", 503, "the GPU has failed; try again", (1, 0)),
        (
            "raise OutOfMemoryError()",
            503,
            "there is no memory for this at the moment; try again",
            (0, 1),
        ),
        ("raise MemoryError()", 507, "there is not as much memory as this takes", (0, 1)),
        ("raise ValueError()", 500, "Internal Server Error", (0, 0)),
        ("raise NotFound('no') from MemoryError()", 404, "no", (0, 0)),
    ],
)
@pytest.mark.parametrize("way", ["def", "async def"])
def test_the_answer(
    model: Model,
    client_of: ClientOf,
    way: str,
    body: str,
    status: int,
    message: str,
    counts: tuple[int, int],
) -> None:
    told = Told()
    response = client_of(boot(model, told, way=way, predict=body)).post()
    assert (response.status, response.json) == (status, {"error": message})
    assert response.headers.get("Retry-After") == ("1" if status == 503 else None)
    assert told.counts == counts


def test_the_traceback_is_shown_outside_production(model: Model, client_of: ClientOf) -> None:
    response = client_of(boot(model, Told(), "local", predict="raise lost")).post()
    assert ASSERT in response.json["traceback"]


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ("yield 1; raise lost", (1, 0)),
        ("yield 1; raise MemoryError()", (0, 1)),
        ("return Response(failing())", (1, 0)),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_told(
    model: Model, client_of: ClientOf, body: str, counts: tuple[int, int]
) -> None:
    told = Told()
    client = client_of(boot(model, told, predict=body))
    with pytest.raises((BrokenOff, RuntimeError)):
        client.post()
    assert told.counts == counts


def test_a_health_check_tells_as_well(model: Model) -> None:
    told = Told()
    check = boot(model, told, health="raise lost").check_health
    assert check is not None
    with pytest.raises(Unhealthy):
        check()
    assert [(type(error), str(error)) for error in told.fatal] == [(DeviceError, ASSERT)]


@pytest.mark.parametrize("environment", ["production", "local"])
def test_a_run_that_loses_the_gpu_is_fatal_everywhere(model: Model, environment: str) -> None:
    told = Told()
    boot(model, told, environment, run="raise lost")
    for thread in threading.enumerate():
        if thread.name == "run":
            thread.join(10)
    assert [type(error) for error in told.fatal] == [DeviceError]


def test_in_production_so_is_one_for_which_memory_is_short(model: Model) -> None:
    told = Told()
    boot(model, told, run="raise OutOfMemoryError('CUDA out of memory.')")
    for thread in threading.enumerate():
        if thread.name == "run":
            thread.join(10)
    assert [type(error) for error in told.fatal] == [RunError]


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [("raise lost", DeviceError, 5), ("raise MemoryError()", BootError, 3)],
)
def test_a_predictor_that_cannot_be_built(
    model: Model, body: str, kind: type[ObworkerError], code: int
) -> None:
    with pytest.raises(kind, match=r"predictor\.py:\d+: .*__init__.* raised") as refused:
        boot(model, Told(), init=body)
    assert refused.value.exit_code == code
