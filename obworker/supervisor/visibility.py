"""The variables that say which devices a process sees, each parsed as its vendor does. Pure.

    CUDA_VISIBLE_DEVICES        NVIDIA, CUDA Programming Guide, "CUDA Environment Variables"
    HIP_VISIBLE_DEVICES         AMD, indices count what ROCR_VISIBLE_DEVICES leaves
    ROCR_VISIBLE_DEVICES        AMD, one level below
    ASCEND_RT_VISIBLE_DEVICES   Huawei Ascend: indices in ascending order

AMD's are in the ROCm documentation, "GPU isolation techniques"; Ascend's in that of CANN.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from obworker.errors import UsageError

# Values that schedulers and container runtimes use to say "none".
NO_DEVICES = frozenset(("", "-1", "nodevfiles", "none", "void"))


@dataclass(frozen=True)
class Family:
    """A kind of device, and the variable that hides all but some devices.

    `nothing` is the value that hides all. A UUID has one of `prefixes`. If the runtime `mixes`, a
    list may have UUIDs and indices; else it ends at the first of the other kind. If it `ascends`,
    the list also ends at an index that is less than the one before.
    """

    kind: str
    runtime: str
    variable: str
    nothing: str = "-1"
    prefixes: tuple[str, ...] = ("GPU-",)
    mixes: bool = False
    ascends: bool = False

    def is_uuid(self, token: str) -> bool:
        """Whether a token is a UUID, and no index."""
        return bool(self.prefixes) and token.startswith(self.prefixes)


CUDA = Family("gpu", "CUDA", "CUDA_VISIBLE_DEVICES", "", ("GPU-", "MIG-"))
HIP = Family("gpu", "HIP", "HIP_VISIBLE_DEVICES", mixes=True)
ROCR = Family("gpu", "ROCr", "ROCR_VISIBLE_DEVICES", mixes=True)
ASCEND = Family("npu", "CANN", "ASCEND_RT_VISIBLE_DEVICES", prefixes=(), ascends=True)
FAMILIES = (CUDA, HIP, ROCR, ASCEND)


class Listing(NamedTuple):
    """The devices of a machine, as tokens for the variable of their family."""

    family: Family
    tokens: list[str]


def family_of(environ: Mapping[str, str]) -> Family | None:
    """Return the family whose variable is set; of several, the first that names a device.

    Schedulers set those of all vendors alike. CUDA's comes first: HIP reads it if its own is not
    set, so it restricts a worker on either machine.
    """
    given = [family for family in FAMILIES if family.variable in environ]
    named = [family for family in given if not _says_none(environ[family.variable])]
    return next(iter(named or given), None)


def parse_visible(value: str, family: Family = CUDA) -> list[str]:
    """Return the tokens of a variable as the runtime would use them.

    It uses them up to the first that is invalid, and none at all if one comes twice.

    Raises:
        UsageError: a token comes twice.
    """
    if _says_none(value):
        return []
    tokens: list[str] = []
    for token in _usable(value, family):
        if token in tokens:
            raise UsageError(
                f"{family.variable}: {value!r} names {token!r} twice;"
                f" {family.runtime} would see no {family.kind.upper()}"
            )
        if family.ascends and tokens and int(token) < int(tokens[-1]):
            break
        tokens.append(token)
    return tokens


def _says_none(value: str) -> bool:
    return value.strip().lower() in NO_DEVICES


def _usable(value: str, family: Family) -> Iterator[str]:
    written = [token.strip() for token in value.split(",")]
    prefix = next((p for p in family.prefixes if written[0].startswith(p)), None)
    for token in written:
        index = re.match(r"\+?(\d+)", token)
        if family.mixes and (family.is_uuid(token) or index):
            yield index[1] if index else token
        elif prefix is not None and token.startswith(prefix):
            yield token
        elif prefix is None and index:
            yield index[1]
        else:
            return
