"""What a body is collected in, and what that teaches malloc."""

from __future__ import annotations

import io
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from obworker.http.bodies import LARGE, Bodies
from obworker.http.queue import RequestQueue
from obworker.http.spool import MOST_IN_USE, Spool, Spools

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture
def spools() -> Iterator[Spools]:
    with closing(Spools()) as made:
        yield made


def bodies(spools: Spools, *, would_move: bool) -> Bodies:
    return Bodies(spools, cast("RequestQueue", SimpleNamespace(would_move=would_move)))


def test_a_body_needs_no_memory_for_the_lesson(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obworker.http.bodies.MOST_THRESHOLD", 1 << 62)
    bodies(spools, would_move=False).open_for(1 << 60)


@pytest.mark.parametrize(
    ("length", "would_move", "kind"),
    [
        (LARGE - 1, True, io.BytesIO),
        (LARGE, True, Spool),
        (LARGE, False, io.BytesIO),
        (100 * MIB, True, Spool),
        (100 * MIB, False, io.BytesIO),
    ],
)
def test_it_is_a_spool_where_a_large_body_will_move(
    spools: Spools, length: int, would_move: bool, kind: type
) -> None:
    collected = bodies(spools, would_move=would_move).open_for(length)
    assert type(collected) is kind
    assert collected.tell() == 0


def test_it_is_the_heap_where_there_are_no_spools(spools: Spools) -> None:
    taken = [spools.open() for _ in range(MOST_IN_USE)]
    assert type(bodies(spools, would_move=True).open_for(MIB)) is io.BytesIO
    assert len(taken) == MOST_IN_USE


LESSON = """
import resource, sys
from types import SimpleNamespace
from obworker.http.bodies import Bodies
from obworker.http.spool import Spools

MIB = 1 << 20
bodies = Bodies(Spools(), SimpleNamespace(would_move=False))
body = bytes(range(256)) * 4096
if sys.argv[1] == "taught":
    bodies.open_for(MIB)

def answer():
    '''Have a body and what is made of it.'''
    collected = bodies.open_for(MIB) if sys.argv[1] == "taught" else __import__("io").BytesIO()
    for start in range(0, MIB, MIB // 4):
        collected.write(body[start : start + MIB // 4])
    return collected.getvalue().decode("latin-1").encode("latin-1")

for _ in range(5):
    answer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    answer()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
"""


def faults(how: str) -> int:
    """Return how many new pages a body takes, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", LESSON, how],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc learns")
def test_malloc_keeps_what_large_bodies_leave() -> None:
    assert 10 * faults("taught") < faults("not taught")
