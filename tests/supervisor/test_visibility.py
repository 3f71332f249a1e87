"""The variables of each vendor, read as its runtime reads them."""

from __future__ import annotations

import pytest

from obworker.errors import UsageError
from obworker.supervisor.visibility import (
    ASCEND,
    CUDA,
    HIP,
    ROCR,
    Family,
    family_of,
    parse_visible,
)

A, B = "GPU-aaaa", "GPU-bbbb"
M1, M2 = "MIG-1111", "MIG-2222"


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("", []),
        ("  ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("void", []),
        ("0", ["0"]),
        ("2,1", ["2", "1"]),
        (" 2 , 1 ", ["2", "1"]),
        ("0,2,-1,1", ["0", "2"]),
        ("0,,1", ["0"]),
        ("0,x,1", ["0"]),
        ("1gpu2,2ampere", ["1", "2"]),
        ("+3", ["3"]),
        (A, [A]),
        (f"{A},{B}", [A, B]),
        (f"{A},1,{B}", [A]),
        (f"1,{A}", ["1"]),
        (f"{M1}", [M1]),
        (f"{M1},{M2}", [M1, M2]),
        (f"{M1},{A}", [M1]),
        (f"{A},{M1}", [A]),
        ("MIG-GPU-aaaa/1/0", ["MIG-GPU-aaaa/1/0"]),
        ("nonsense", []),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(value: str, tokens: list[str]) -> None:
    assert parse_visible(value) == tokens


@pytest.mark.parametrize("value", ["0,0", "0, 0", "1,2,1", f"{A},{A}", "1,+1", "1,1x"])
def test_a_device_that_comes_twice_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="twice; CUDA would see no GPU"):
        parse_visible(value)


@pytest.mark.parametrize(
    ("family", "value", "tokens"),
    [
        (HIP, "1,0", ["1", "0"]),
        (HIP, "-1", []),
        (HIP, f"{A},{B}", [A, B]),
        (HIP, f"0,{B}", ["0", B]),
        (ROCR, f"{A},1", [A, "1"]),
        (ROCR, "0,x,1", ["0"]),
        (ROCR, M1, []),
        (ASCEND, "0,2,3", ["0", "2", "3"]),
        (ASCEND, "0,2,1,3", ["0", "2"]),
        (ASCEND, "0,x", ["0"]),
        (ASCEND, A, []),
        (ASCEND, "", []),
    ],
)
def test_other_vendors_lists_have_their_own_rules(
    family: Family, value: str, tokens: list[str]
) -> None:
    assert parse_visible(value, family) == tokens


def test_a_device_that_comes_twice_is_refused_in_the_words_of_its_runtime() -> None:
    with pytest.raises(UsageError, match=r"^ASCEND_RT_VISIBLE_DEVICES: .* CANN would see no NPU$"):
        parse_visible("1,1", ASCEND)


@pytest.mark.parametrize(
    ("environ", "family"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "0"}, CUDA),
        ({"CUDA_VISIBLE_DEVICES": ""}, CUDA),
        ({"HIP_VISIBLE_DEVICES": "0"}, HIP),
        ({"ROCR_VISIBLE_DEVICES": "0"}, ROCR),
        ({"ASCEND_RT_VISIBLE_DEVICES": "0"}, ASCEND),
        ({"HIP_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "1,2"}, HIP),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "0,1"}, CUDA),
        ({"CUDA_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "0,1"}, ROCR),
        ({"CUDA_VISIBLE_DEVICES": "-1", "ASCEND_RT_VISIBLE_DEVICES": ""}, CUDA),
    ],
)
def test_the_first_variable_that_names_a_device_counts(
    environ: dict[str, str], family: Family | None
) -> None:
    assert family_of(environ) == family
