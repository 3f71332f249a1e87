"""All processes of a service share one exchange, for its whole life."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from harness import Serve, Server, eventually

PREDICTOR = """
class Predictor:
    def predict(self):
        return 0
"""

SEMAPHORE = re.compile(
    r"^eventfd-count:\s+(?P<count>\w+)\neventfd-id:\s+(?P<id>\d+)$", re.MULTILINE
)


@pytest.fixture
def model(model: Path) -> Path:
    (model / "predictor.py").write_text(PREDICTOR)
    return model


def semaphores(process: psutil.Process) -> dict[str, int]:
    """Return the values of the eventfds that a process has, by their ids; see proc(5), fdinfo."""
    found = {}
    for path in Path(f"/proc/{process.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # it is closed meanwhile
            if match := SEMAPHORE.search(path.read_text()):
                found[match["id"]] = int(match["count"], 16)
    return found


def workers_but(server: Server, old: set[int]) -> list[psutil.Process]:
    """Return both workers once those of before a reload have left."""
    workers = list(server.workers().values())
    return workers if len(workers) == 2 and not old & {w.pid for w in workers} else []


@pytest.mark.parametrize("preload", ["on", "off"])
def test_every_worker_has_the_exchange_of_the_master(
    serve: Serve, model: Path, preload: str
) -> None:
    server = serve("--workers", "2", "--preload", preload, str(model)).wait_until_ready(2)
    (identity, places), *others = semaphores(psutil.Process(server.pid)).items()
    assert (places, others) == (200, [])
    workers: list[psutil.Process] = []
    for _ in range(3):
        old = {worker.pid for worker in workers}
        workers = eventually(partial(workers_but, server, old), what="two new workers")
        assert [semaphores(worker).get(identity) for worker in workers] == [200, 200]
        server.signal(signal.SIGHUP)
    assert semaphores(psutil.Process(server.pid)) == {identity: 200}
    assert server.stop() == 0


def test_there_are_as_many_places_as_settings_and_workers_ask_for(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    config = tmp_path / "obworker.toml"
    config.write_text("workers = 2\n")
    server = serve("--config", str(config), str(model)).wait_until_ready(2)

    def has(places: int) -> bool:
        return list(semaphores(psutil.Process(server.pid)).values()) == [places]

    assert has(200)
    server.signal(signal.SIGTTIN)
    eventually(lambda: has(300), what="300 places")
    server.signal(signal.SIGTTOU)
    eventually(lambda: has(200), what="200 places")
    config.write_text("workers = 2\nmax_queue = 7\n")
    server.signal(signal.SIGHUP)
    eventually(lambda: has(7), what="7 places")
    assert server.stop() == 0
