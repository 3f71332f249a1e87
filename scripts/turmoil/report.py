"""What a run has come to, in words: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from turmoil.footprint import Footprint
from turmoil.ledger import Answered, Ledger, Loss
from turmoil.verdict import Sorted, by_kind

RECENT_SECONDS = 3.0


def lines(ledger: Ledger, losses: Sorted, footprints: list[Footprint]) -> Iterator[str]:
    """Say what was done, what came of it, and what was excused."""
    done = Counter(operation.name for operation in ledger.operations)
    yield f"{done.total()} operations: {_counts(done)}"
    yield f"{ledger.requests.total()} requests: {_counts(ledger.requests)}"
    yield f"{len(ledger.answered)} answered, the slowest {_slowest(ledger.answered)}"
    yield f"{ledger.closed_idle} idle connections closed"
    yield f"{ledger.probes.total()} probes: {_counts(ledger.probes)}"
    kills = f"{len(ledger.kills)} killed processes"
    yield f"{len(losses.killed)} lost with {kills}: {_counts(by_kind(losses.killed))}"
    yield f"{len(losses.crossed)} crossed a close: {_counts(by_kind(losses.crossed))}"
    for when, one in zip(("warm", "at the end"), footprints, strict=False):
        memory = {role: f"{size >> 10} KiB" for role, size in one.memory.items()}
        yield f"{when}: descriptors: {_pairs(one.descriptors)}; memory: {_pairs(memory)}"


def failures(ledger: Ledger, losses: Sorted) -> list[str]:
    """Say what went wrong, requests first."""
    lost = [f"{loss}{_before(loss, ledger)}" for loss in losses.unexcused]
    return [*lost, *ledger.faults]


def _slowest(answered: Sequence[Answered]) -> str:
    slowest = max(answered, key=lambda one: one.seconds, default=None)
    return f"{slowest.id} after {slowest.seconds:.1f} s" if slowest else "-"


def _before(loss: Loss, ledger: Ledger) -> str:
    """Say what was done right before."""
    recent = [
        f"{one.name} {one.at - loss.at:+.2f} s"
        for one in ledger.operations
        if 0 <= loss.at - one.at <= RECENT_SECONDS
    ]
    return f"\n    after {', '.join(recent) or 'nothing'}"


def _counts(counter: Counter[str]) -> str:
    return _pairs(dict(counter.most_common())) or "-"


def _pairs(named: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in named.items())
