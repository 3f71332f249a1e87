"""Which cores each slot has, and who shares them."""

from __future__ import annotations

import random

import pytest

from obworker.supervisor.placement import Placement, place, write_list

NOWHERE = frozenset[int]()
LEFT, RIGHT = frozenset(range(4)), frozenset(range(4, 8))


def cut(cores: str, *near: frozenset[int]) -> str:
    """Place slots on cores, which are digits; return each slot's."""
    placement = place([int(digit) for digit in cores], near)
    return " ".join("".join(map(str, cores)) for cores in placement.sets)


@pytest.mark.parametrize(
    ("cores", "slots", "sets"),
    [
        ("0123", 1, "0123"),
        ("0123", 2, "01 23"),
        ("0123", 4, "0 1 2 3"),
        ("01234", 2, "01 234"),
        ("01234567", 3, "01 234 567"),
        ("0415", 2, "04 15"),
        ("0123", 5, "0 1 2 3 0"),
        ("01", 5, "0 1 0 1 0"),
        ("7", 3, "7 7 7"),
    ],
)
def test_cores_are_dealt_out_in_neighbourhoods(cores: str, slots: int, sets: str) -> None:
    assert cut(cores, *[NOWHERE] * slots) == sets


@pytest.mark.parametrize(
    ("near", "sets"),
    [
        ([LEFT, RIGHT], "0123 4567"),
        ([RIGHT, LEFT], "4567 0123"),
        ([LEFT, LEFT, RIGHT, RIGHT], "01 23 45 67"),
        ([LEFT, RIGHT, LEFT], "01 4567 23"),
        ([LEFT, LEFT], "01 23"),
        ([LEFT], "0123"),
        ([LEFT] * 5 + [RIGHT], "0 1 2 3 0 4567"),
        ([LEFT | RIGHT] * 2, "0123 4567"),
    ],
)
def test_a_slot_has_cores_near_its_gpu(near: list[frozenset[int]], sets: str) -> None:
    assert cut("01234567", *near) == sets


@pytest.mark.parametrize(
    "near",
    [
        [LEFT, NOWHERE],
        [LEFT, frozenset({3, 4, 5})],
        [LEFT, frozenset({8, 9})],
    ],
    ids=["one is not known", "they overlap", "none of them is ours"],
)
def test_slots_have_cores_of_their_own_rather_than_near_ones(near: list[frozenset[int]]) -> None:
    assert cut("01234567", *near) == "0123 4567"


def test_only_cores_that_we_may_use_are_dealt_out() -> None:
    assert cut("2367", LEFT, RIGHT) == "23 67"


def test_no_two_slots_have_a_core_in_common_unless_there_are_too_few() -> None:
    chance = random.Random(5)
    for _ in range(300):
        cores = chance.sample(range(64), chance.randint(1, 24))
        slots = chance.randint(1, 24)
        near = [frozenset(chance.sample(range(64), 20)) for _ in range(chance.randint(1, 3))]
        sets = place(cores, [chance.choice(near) for _ in range(slots)]).sets
        assert all(sets)
        assert {core for each in sets for core in each} <= set(cores)
        different = set(sets)
        assert sum(map(len, different)) == len({core for each in different for core in each})


def test_a_slot_that_is_added_later_shares_with_another() -> None:
    placement = place(range(4), [NOWHERE] * 2)
    assert [placement.of(slot) for slot in range(4)] == [(0, 1), (2, 3), (0, 1), (2, 3)]
    assert [placement.room(0, slots) for slots in (1, 2, 3, 4, 6)] == [2, 2, 1, 1, 1]
    assert placement.room(1, 3) == 2


def test_without_affinity_there_is_no_set_and_no_limit() -> None:
    assert Placement().of(3) == ()
    assert Placement().room(3, 8) is None


@pytest.mark.parametrize(
    ("slots", "text"),
    [
        (2, "each worker on cores of its own: 0-1 2-3"),
        (3, "more workers than sets of cores, so up to 2 share one: 0-1 2-3"),
        (5, "more workers than sets of cores, so up to 3 share one: 0-1 2-3"),
    ],
)
def test_the_placement_is_told_to_people(slots: int, text: str) -> None:
    assert place(range(4), [NOWHERE] * 2).describe(slots) == text


@pytest.mark.parametrize(
    ("cores", "text"),
    [([], ""), ([3], "3"), ([0, 1, 2, 5], "0-2,5"), ([9, 1, 8], "1,8-9"), ([0, 2, 4], "0,2,4")],
)
def test_a_list_of_cores_is_written_as_the_kernel_does(cores: list[int], text: str) -> None:
    assert write_list(cores) == text
