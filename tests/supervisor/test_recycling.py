from __future__ import annotations

import pytest

from obworker.supervisor.recycling import LEAST_LIFE, Recycling

MIB = 1 << 20


@pytest.mark.parametrize(
    ("requests", "memory", "served_for", "why"),
    [
        (0, 0, 0, ""),
        (99, 0, 1000, ""),
        (100, 0, 0, "has served 100 requests"),
        (150, 300 * MIB, 60, "has served 150 requests"),
        (1, 200 * MIB, 60, ""),
        (1, 201 * MIB, 60, "holds 201 MiB, more than 200 MiB"),
        (1, 201 * MIB, LEAST_LIFE, "holds 201 MiB, more than 200 MiB"),
        (1, 201 * MIB, LEAST_LIFE - 0.1, ""),
    ],
)
def test_a_worker_is_replaced_at_a_limit(
    requests: int, memory: int, served_for: float, why: str
) -> None:
    limits = Recycling(max_requests=100, max_memory=200 * MIB)
    assert limits.why(requests=requests, memory=memory, served_for=served_for) == why


def test_without_limits_it_serves_for_ever() -> None:
    limits = Recycling.draw(0, None, 0, chance=lambda: 1.0)
    assert limits.why(requests=10**9, memory=1 << 50, served_for=1e9) == ""


@pytest.mark.parametrize(
    ("jitter", "chance", "limit"),
    [(None, 0.0, 1000), (None, 0.5, 1050), (None, 1.0, 1100), (0, 1.0, 1000), (500, 0.5, 1250)],
)
def test_the_number_of_requests_is_raised_at_random(
    jitter: int | None, chance: float, limit: int
) -> None:
    assert Recycling.draw(1000, jitter, 0, chance=lambda: chance).max_requests == limit
