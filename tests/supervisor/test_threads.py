"""How many threads each worker may use, and what libraries find in their environment."""

from __future__ import annotations

import pytest

from obworker.cores import Cores
from obworker.supervisor.threads import MOLD_PRESETS, SLEEPY, VARIABLES, Budget

EIGHT = Cores(frozenset(range(8)))
COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def of(environ: dict[str, str], cores: Cores = EIGHT, workers: int = 4, calls: int = 1) -> Budget:
    return Budget.of(cores, environ, workers, calls)


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [
        (EIGHT, 1, 8),
        (EIGHT, 3, 2),
        (EIGHT, 4, 2),
        (EIGHT, 8, 1),
        (EIGHT, 9, 1),
        (Cores(EIGHT.allowed, 2.0), 4, 1),
        (Cores(EIGHT.allowed, 2.0), 1, 2),
        (Cores(EIGHT.allowed, 2.9), 1, 2),
        (Cores(EIGHT.allowed, 0.5), 1, 1),
        (Cores(EIGHT.allowed, 6.0), 4, 1),
    ],
)
def test_workers_share_the_cores_and_have_one_at_least(
    cores: Cores, workers: int, threads: int
) -> None:
    budget = of({}, cores, workers)
    assert budget.threads(workers) == threads
    assert budget.pools(workers) == dict.fromkeys(VARIABLES, threads)
    found = budget.worker_environ(budget.pools(workers))
    assert {name: found[name] for name in COUNTS} == dict.fromkeys(COUNTS, str(threads))


@pytest.mark.parametrize(
    ("environ", "pools"),
    [
        ({"OMP_NUM_THREADS": "3"}, {"openmp": 3, "openblas": 3, "mkl": 3, "blis": 3}),
        ({"OMP_NUM_THREADS": "3,1"}, {"openmp": 3, "openblas": 3, "mkl": 3, "blis": 3}),
        ({"OPENBLAS_NUM_THREADS": "5"}, {"openmp": 2, "openblas": 5, "mkl": 2, "blis": 2}),
        (
            {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "1"},
            {"openmp": 3, "openblas": 3, "mkl": 1, "blis": 3},
        ),
        ({"OMP_NUM_THREADS": "many"}, {"openmp": 2, "openblas": 2, "mkl": 2, "blis": 2}),
        ({"OMP_NUM_THREADS": "0"}, {"openmp": 2, "openblas": 2, "mkl": 2, "blis": 2}),
    ],
)
def test_what_the_user_has_set_stands(environ: dict[str, str], pools: dict[str, int]) -> None:
    budget = of(environ)
    assert budget.pools(4) == pools
    assert not set(environ) & set(budget.worker_environ(pools))
    assert not set(environ) & set(budget.mold_environ)


def test_workers_that_are_added_later_have_a_smaller_share() -> None:
    budget = of({}, workers=4)
    assert [budget.threads(workers) for workers in (1, 2, 4, 8, 16)] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize(("room", "threads"), [(None, 2), (1, 1), (2, 2), (5, 2)])
def test_a_worker_has_no_more_threads_than_room(room: int | None, threads: int) -> None:
    assert of({}).pools(4, room)["openmp"] == threads
    assert of({"OMP_NUM_THREADS": "3"}).pools(4, room)["openmp"] == 3


def test_one_thread_is_all_that_an_import_may_start() -> None:
    assert of({}).mold_environ == MOLD_PRESETS


@pytest.mark.parametrize(
    ("cores", "environ", "workers", "calls", "may_spin"),
    [
        (EIGHT, {}, 4, 1, True),
        (EIGHT, {}, 9, 1, False),
        (EIGHT, {}, 4, 2, False),
        (EIGHT, {"OMP_NUM_THREADS": "2"}, 4, 1, True),
        (EIGHT, {"OMP_NUM_THREADS": "3"}, 4, 1, False),
        (Cores(EIGHT.allowed, 2.0), {}, 2, 1, True),
        (Cores(EIGHT.allowed, 2.0), {}, 4, 1, False),
    ],
)
def test_idle_threads_sleep_where_there_are_more_than_cores(
    cores: Cores, environ: dict[str, str], workers: int, calls: int, may_spin: bool
) -> None:
    budget = of(environ, cores, workers, calls)
    found = budget.worker_environ(budget.pools(workers))
    assert budget.may_spin(budget.threads(workers)) is may_spin
    assert (found.items() >= SLEEPY.items()) is not may_spin
    assert (budget.mold_environ.items() >= SLEEPY.items()) is not may_spin


def test_how_threads_wait_is_the_users_to_say() -> None:
    budget = of({"OMP_WAIT_POLICY": "ACTIVE"}, workers=9)
    assert "OMP_WAIT_POLICY" not in budget.mold_environ
    assert "OMP_WAIT_POLICY" not in budget.worker_environ(budget.pools(9))


@pytest.mark.parametrize(
    ("budget", "workers", "text"),
    [
        (of({}, Cores(EIGHT.allowed, 2.0)), 4, "1 each: 4 workers on 2.0 cores (cgroup quota)"),
        (of({}), 1, "8 each: 1 worker on 8 cores"),
        (
            of({"OMP_NUM_THREADS": "3"}, Cores(frozenset({1}))),
            2,
            "3 each by OMP_NUM_THREADS: 2 workers on 1 core",
        ),
    ],
)
def test_the_shares_are_told_to_people(budget: Budget, workers: int, text: str) -> None:
    assert budget.describe(workers) == text
