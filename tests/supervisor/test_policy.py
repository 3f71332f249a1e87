"""How long to wait before the next try, and when there is none."""

from __future__ import annotations

import pytest

from obworker.supervisor.policy import BootPolicy, RestartPolicy, backoff


@pytest.mark.parametrize(
    ("failures", "planned"),
    [
        (-1, 0),
        (0, 0),
        (1, 0.5),
        (2, 1),
        (3, 2),
        (4, 4),
        (5, 8),
        (6, 16),
        (7, 30),
        (8, 30),
        (100_000, 30),
    ],
)
def test_the_wait_doubles_up_to_half_a_minute_and_varies_by_a_fifth(
    failures: int, planned: float
) -> None:
    assert backoff(failures, 0.5) == planned
    assert backoff(failures, 0.0) == pytest.approx(planned * 0.8)
    assert backoff(failures, 1.0) == pytest.approx(planned * 1.2)


# how each life ended: seconds it was ready, None for never; and the wait after it
STORIES: dict[str, list[tuple[float | None, float]]] = {
    "one crash": [(5, 0)],
    "crashes in a row": [(5, 0), (5, 0.5), (5, 1), (5, 2)],
    "boots that fail": [(None, 0.5), (None, 1), (None, 2)],
    "a crash, then boots that fail": [(5, 0), (None, 1), (None, 2)],
    "a boot that fails, then a crash": [(None, 0.5), (5, 0.5), (5, 1)],
    "health between crashes": [(5, 0), (5, 0.5), (60, 0), (5, 0.5)],
    "almost health": [(59.9, 0), (59.9, 0.5)],
    "health, then boots that fail": [(5, 0), (100, 0), (None, 1), (None, 2)],
    "died the moment it was ready": [(0, 0), (0, 0.5)],
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_waits_follow_from_how_lives_ended(story: list[tuple[float | None, float]]) -> None:
    policy = RestartPolicy(lambda: 0.5)
    starts = [None if ready_for is None else -ready_for for ready_for, _ in story]
    waits = [policy.ended(0.0, ready_at=ready_at) for ready_at in starts]
    assert waits == [wait for _, wait in story]


def test_chance_is_asked_for_every_wait() -> None:
    chances = iter([0.0, 1.0])
    policy = RestartPolicy(lambda: next(chances))
    assert policy.ended(0.0, ready_at=None) == pytest.approx(0.4)
    assert policy.ended(0.0, ready_at=None) == pytest.approx(1.2)


def test_five_failures_before_anything_was_ready_are_enough() -> None:
    policy = BootPolicy()
    assert [policy.failed(certain=False) for _ in range(6)] == [False] * 4 + [True] * 2


def test_one_failure_is_enough_where_the_next_would_be_the_same() -> None:
    assert BootPolicy().failed(certain=True)


def test_once_something_was_ready_nothing_is_enough() -> None:
    policy = BootPolicy()
    policy.ready()
    assert not any(policy.failed(certain=number % 2 == 0) for number in range(50))
