"""Memory files that hold large bodies, and are used again."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from obworker.errors import ServiceUnavailable
from obworker.http.spool import (
    MOST_BYTES,
    MOST_IN_USE,
    MOST_SPARE,
    MOST_SPARE_BYTES,
    SPARE_TIME,
    Spool,
    Spools,
)

NOW = 1000.0


@pytest.fixture
def spools() -> Iterator[Spools]:
    with closing(Spools()) as made:
        yield made


def files() -> int:
    """Return how many of them are open in this process."""
    opened = Path("/proc/self/fd").iterdir()
    return sum("obworker-spool" in str(path.resolve()) for path in opened)


def use(spools: Spools, count: int, size: int = 1) -> None:
    """Have so many spools at once, and let go of them."""
    kept = [spools.open() for _ in range(count)]
    for spool in kept:
        spool.write(bytes(size))


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


def test_what_was_written_is_read(spools: Spools) -> None:
    spool = spools.open()
    for part in (b"a", b"", b"bc" * 100_000):
        spool.write(part)
    assert spool.read() == spool.read() == b"a" + b"bc" * 100_000
    assert len(spool) == spool.tell() == 200_001


def test_one_that_was_let_go_of_is_used_again_and_is_empty(spools: Spools) -> None:
    for text in (b"longer", b"short"):
        spool = spools.open()
        spool.write(text)
        assert spool.read() == text
        del spool
        assert files() == 1


def test_so_is_one_that_came_from_another_process(spools: Spools) -> None:
    memfd = os.memfd_create("obworker-spool")
    os.write(memfd, b"body and head")
    spool = spools.adopt(memfd, 4)
    assert spool.read() == b"body"
    del spool
    assert spools.open().descriptor == memfd


def test_one_that_was_given_away_is_not(spools: Spools) -> None:
    spool = spools.open()
    number = spool.descriptor
    spools.give_away(spool)
    other = spools.open()
    assert other.descriptor == number  # the next to open anything gets it
    del spool
    other.write(b"x")
    assert spools.open().descriptor != number
    assert other.read() == b"x"


def test_few_are_kept(spools: Spools) -> None:
    use(spools, MOST_SPARE + 1)
    assert files() == MOST_SPARE


def test_they_are_not_kept_where_they_are_large(spools: Spools) -> None:
    use(spools, 3, MOST_SPARE_BYTES // 2)
    assert files() == 2


def test_what_is_not_needed_is_closed_after_a_while(spools: Spools) -> None:
    use(spools, 3)
    left = []
    for periods in (0, 0.5, 1, 1.5, 2, 3):
        spools.trim(NOW + periods * SPARE_TIME)
        left.append(files())
        if periods < 2:
            use(spools, 2)
    assert left == [3, 3, 2, 2, 2, 0]


def test_all_are_closed_at_the_end(spools: Spools) -> None:
    use(spools, 3)
    spool = spools.open()
    spools.close()
    assert files() == 1
    del spool
    assert files() == 0


def test_there_is_none_for_a_body_that_one_call_does_not_read(spools: Spools) -> None:
    assert spools.open_for(MOST_BYTES + 1) is None
    assert isinstance(spools.open_for(MOST_BYTES), Spool)


def test_there_are_only_so_many_at_once(spools: Spools) -> None:
    kept = [spools.open_for(1) for _ in range(MOST_IN_USE)]
    assert all(isinstance(spool, Spool) for spool in kept)
    assert spools.open_for(1) is None
    kept.pop()
    assert isinstance(spools.open_for(1), Spool)


def test_one_that_was_given_away_is_none_of_them(spools: Spools) -> None:
    kept = [spools.open_for(1) for _ in range(MOST_IN_USE)]
    assert kept[0] is not None
    spools.give_away(kept[0])
    assert isinstance(spools.open_for(1), Spool)


def test_there_is_none_without_a_free_descriptor(spools: Spools) -> None:
    with limited(resource.RLIMIT_NOFILE, 0):
        assert spools.open_for(1) is None


def test_a_body_for_which_there_is_no_memory_is_refused(spools: Spools) -> None:
    spool = spools.open()
    with limited(resource.RLIMIT_FSIZE, 10):  # as a limit of memory would, it takes a part
        for _ in range(2):
            with pytest.raises(ServiceUnavailable):
                spool.write(bytes(11))
            spool.write(bytes(5))
        with pytest.raises(ServiceUnavailable):
            spool.write(b"x")
    assert len(spool) == 10
