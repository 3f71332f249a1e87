"""The claims of a benchmark, and whether they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence


class Claim(NamedTuple):
    """A claim, what was measured, and whether the claim holds."""

    text: str
    measured: str
    holds: bool


def at_most(text: str, value: float, limit: float) -> Claim:
    """Return the claim that a value does not exceed a limit."""
    return Claim(text, f"{value:.2f}, at most {limit:.2f}", value <= limit)


def at_least(text: str, value: float, limit: float) -> Claim:
    """Return the claim that a value reaches a limit."""
    return Claim(text, f"{value:.2f}, at least {limit:.2f}", value >= limit)


def counted(counter: Counter[str], most: int | None = None) -> str:
    """Return the counts as text, the highest first."""
    return ", ".join(f"{count} x {what}" for what, count in counter.most_common(most)) or "0"


def verdict(claims: Sequence[Claim]) -> int:
    """Print each claim with PASS or FAIL; return the exit status."""
    width = max(len(claim.text) for claim in claims)
    for claim in claims:
        print(f"{'PASS' if claim.holds else 'FAIL'}  {claim.text:<{width}}  {claim.measured}")
    return 0 if all(claim.holds for claim in claims) else 1
